"""Untrusted checkpoints are refused by every reader, without side effects."""

import io
import logging
import os
import pickle
import re
import time
import zipfile
from pathlib import Path

from mobilevig_det import MobileViG
from mobilevig_det.checkpoints import read_checkpoint, weights
from mobilevig_det.classification import load_classifier
from mobilevig_det.classification.distillation import build_teacher
from mobilevig_det.errors import UserError

import pytest
import torch
from checkpoints import run_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from malicious_checkpoints import CONTAINERS, legacy, running_pickles, zipped
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, load_checkpoint
from torchvision_stand_in import import_with_stand_in

ROOT = Path(__file__).parents[2]
ARCH = dict(channels=(4, 4, 8, 8), blocks=(1, 1, 1, 1))
FOLDERS = ('mobilevig_det', 'tools', 'configs', 'benchmarks', 'reproduction')
READS = r'(?<!`)torch\.load\(|pickle\.loads?\(|Unpickler\)|jit\.load\('
NAMES = list(running_pickles('trace'))


def init_from(place):
    MobileViG(ARCH, init_cfg=dict(type='Pretrained', checkpoint=place)).init_weights()


def readers(path, monkeypatch):
    """All ways by which a file comes in. What MMEngine loads (load_from, --resume,
    tools/test.py, tools/infer.py, tools/export.py) it loads by its loader's scheme."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    weights.load_all_safely()
    output = path.with_name('output.pth')

    def convert():
        raise UserError(run_tool(monkeypatch, 'convert_checkpoint', path, output,
                                 '--to', 'authors'))  # fmt: skip

    found = {
        'read_checkpoint': lambda: read_checkpoint(path),
        'mobilevig://': lambda: weights.load_from_mobilevig(f'mobilevig://{path}'),
        'init_cfg': lambda: init_from(f'mobilevig://{path}'),
        'init_cfg, a bare path': lambda: init_from(str(path)),
        "MMEngine's": lambda: load_checkpoint(MobileViG(ARCH), str(path)),
        "MMEngine's, to resume": lambda: CheckpointLoader.load_checkpoint(
            str(path), map_location='cpu'
        ),
        'a classifier': lambda: load_classifier(MobileViG(ARCH), str(path)),
        'convert_checkpoint': convert,
    }
    try:
        timm = import_with_stand_in('timm')
    except pytest.skip.Exception:
        return found
    import mobilevig_det.timm_models  # noqa: F401

    return {
        **found,
        'teacher': lambda: build_teacher('resnet18', str(path), 10),
        'timm': lambda: timm.create_model(
            'mobilevig_ti', pretrained=True, pretrained_cfg_overlay=dict(file=str(path))
        ),
    }


def test_only_one_module_reads_pickles():
    """So that there is no other reader."""
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in (
            'mobilevig_det',
            'tools',
            'configs',
            'benchmarks',
            'reproduction',
        )
        for path in (ROOT / folder).rglob('*.py')
        if re.search(READS, path.read_text())
    ]
    assert found == ['mobilevig_det/checkpoints/plain_unpickler.py']


@pytest.mark.parametrize('name', NAMES)
def test_malicious_pickles_run_code_in_the_unsafe_mode(tmp_path, name):
    """The tests below would see it."""
    trace = tmp_path / 'trace'
    pickle.loads(running_pickles(trace)[name])
    for _ in range(100):  # a process of its own makes it
        if trace.exists():
            break
        time.sleep(0.02)
    assert trace.exists()


@pytest.mark.parametrize('container', CONTAINERS)
def test_no_code_runs_in_any_container(tmp_path, container):
    """Of no opcode, in no format."""
    trace, path = tmp_path / 'trace', tmp_path / 'file.pth'
    for name, data in running_pickles(trace).items():
        CONTAINERS[container](data, path)
        with pytest.raises(UserError) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value), name
        assert os.listdir(tmp_path) == ['file.pth'], name


@pytest.mark.parametrize('container', CONTAINERS)
def test_every_reader_refuses_code(tmp_path, container, monkeypatch):
    trace, path = tmp_path / 'trace', tmp_path / 'file.pth'
    CONTAINERS[container](running_pickles(trace)['in a dict'], path)
    for name, reader in readers(path, monkeypatch).items():
        with pytest.raises(UserError) as error:
            reader()
        assert str(path) in str(error.value), name
        assert os.listdir(tmp_path) == ['file.pth'], name


@pytest.fixture(scope='module')
def good():
    """A small checkpoint in either format of torch's, as bytes."""
    weights = dict(state_dict={'a.weight': torch.rand(5, 7)}, meta=dict(epoch=1))
    files = {}
    for new in (True, False):
        file = io.BytesIO()
        torch.save(weights, file, _use_new_zipfile_serialization=new)
        files['zip' if new else 'legacy'] = file.getvalue()
    return files


@pytest.mark.parametrize('format', ['zip', 'legacy'])
def test_every_reader_refuses_truncated_files(tmp_path, good, format, monkeypatch):
    data, path = good[format], tmp_path / 'cut.pth'
    ends = [*range(0, 40, 3), *range(40, len(data), 41), len(data) - 1]
    for end in ends:
        path.write_bytes(data[:end])
        with pytest.raises(UserError):
            read_checkpoint(path)
    for reader in readers(path, monkeypatch).values():
        with pytest.raises(UserError):
            reader()
    assert os.listdir(tmp_path) == ['cut.pth']


@pytest.mark.parametrize('format', ['zip', 'legacy'])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_changed_bytes_give_a_dict_or_an_error(tmp_path_factory, good, format, data):
    """A dict or a message, whatever bytes are turned."""
    changed = bytearray(good[format])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp('changed') / 'file.pth'
    path.write_bytes(changed)
    try:
        assert isinstance(read_checkpoint(path), dict)
    except UserError:
        pass
    assert os.listdir(path.parent) == ['file.pth']


def test_moderately_compressed_weights_are_read(tmp_path):
    """What somebody zipped anew, as long as it is in proportion."""
    torch.save({'a.weight': torch.zeros(1000, 1000)}, tmp_path / 'a.pth')
    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as a,
        zipfile.ZipFile(tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as b,
    ):
        for name in a.namelist():
            b.writestr(name, a.read(name))
    assert read_checkpoint(tmp_path / 'b.pth')['a.weight'].shape == (1000, 1000)


def test_torchscript_is_refused(tmp_path):
    zipped(pickle.dumps({}, 2), tmp_path / 'a.pth', **{'constants.pkl': b'().'})
    with pytest.raises(UserError, match='TorchScript program'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'value, found',
    [
        (torch.zeros(3, dtype=torch.int64), 'a tensor of torch.int64'),
        (torch.zeros(3, dtype=torch.bool), 'a tensor of torch.bool'),
        (torch.zeros(3, dtype=torch.complex64), 'a tensor of torch.complex64'),
        ('0.5', 'a str'),
        ([0.5], 'a list'),
    ],
)
def test_every_reader_refuses_wrong_types(tmp_path, value, found, monkeypatch):
    path = tmp_path / 'a.pth'
    for name in ('weight', 'bias', 'running_mean', 'layer_scale_2'):
        torch.save({'state_dict': {f'stem.stem.0.{name}': value}}, path)
        with pytest.raises(UserError) as error:
            read_checkpoint(path)
        assert f'stem.stem.0.{name} is {found}, where a floating-point' in str(
            error.value
        )
    for reader in readers(path, monkeypatch).values():
        with pytest.raises(UserError, match='floating-point'):
            reader()


def test_integer_counts_and_masks_are_read(tmp_path):
    weights = dict(
        num_batches_tracked=torch.tensor(3),
        mask=torch.ones(2) > 0,
        weight=torch.ones(1),
    )
    torch.save({'state_dict': weights}, tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['state_dict'].keys() == weights.keys()


@pytest.mark.parametrize('content', ['weights', [1], {3: torch.zeros(1)}])
def test_every_reader_refuses_an_invalid_state_dict(tmp_path, content, monkeypatch):
    torch.save({'state_dict': content}, tmp_path / 'a.pth')
    for reader in readers(tmp_path / 'a.pth', monkeypatch).values():
        with pytest.raises(UserError, match='a dict of weights|names of weights'):
            reader()


def test_backbone_refuses_a_weight_of_another_type(tmp_path):
    model = MobileViG(ARCH)
    state = model.state_dict()
    key = next(k for k in state if k.endswith('num_batches_tracked'))
    state['stages.3.0.grapher.fc1.conv.weight'] = state[
        'stages.3.0.grapher.fc1.conv.weight'
    ].long()
    with pytest.raises(UserError, match=r'of another type: .*torch\.int64 instead'):
        model.load_state_dict(state)
    assert key in state


def test_nan_weights_are_counted_in_a_warning(tmp_path, monkeypatch):
    """A warning at every reader: they may be somebody's only ones."""
    state = MobileViG(ARCH).state_dict()
    first = 'stem.1.conv.weight'
    state[first].view(-1)[:3] = float('nan')
    state['downsamples.2.norm.running_mean'][1] = float('inf')
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    try:
        init_from(str(tmp_path / 'a.pth'))
    finally:
        MMLogger.get_current_instance().removeHandler(handler)
    (line,) = said
    assert 'state_dict: 4 values of 2 weights are NaN or infinite' in line
    assert f'first: {first}, 3 of them' in line


def test_harmless_content_of_the_containers_is_read(tmp_path):
    """What is harmless in them is read: it is the content that is refused."""
    for container in (zipped, legacy):
        container(pickle.dumps({'epoch': 3}, 2), tmp_path / 'a.pth')
        assert read_checkpoint(tmp_path / 'a.pth') == {'epoch': 3}
