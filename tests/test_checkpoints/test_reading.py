"""Reading of malicious, truncated and other invalid files, and of allowed types."""

import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict

from mobilevig_det import MobileViG
from mobilevig_det.checkpoints import allow_checkpoint_types, weights
from mobilevig_det.checkpoints.reading import (
    both_weights,
    prefer_averaged,
    read_checkpoint,
)
from mobilevig_det.cli.command import command
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from checkpoints import Hostile, build, imagenet_checkpoint
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint


@pytest.fixture
def as_in_our_tools(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    weights.load_all_safely()


def write_wrong_file(kind, path, files):
    trace = path.with_suffix('.trace')
    if kind == 'hostile':
        torch.save({**imagenet_checkpoint(), 'args': Hostile(trace)}, path)
    elif kind == 'hostile, old format':
        torch.save(
            {'state_dict': {}, 'x': Hostile(trace)},
            path,
            _use_new_zipfile_serialization=False,
        )
    elif kind == 'hostile pickle':
        path.write_bytes(pickle.dumps(Hostile(trace)))
    elif kind == 'truncated':
        good = (files / 'good.pth.tar').read_bytes()
        path.write_bytes(good[: len(good) * 2 // 3])
    elif kind == 'truncated, old format':
        torch.save(imagenet_checkpoint(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == 'empty':
        path.touch()
    elif kind == 'web page':
        path.write_text('\n<!DOCTYPE html><html>Sign in</html>')
    elif kind == 'text':
        path.write_text('version https://git-lfs.github.com/spec/v1\n')
    elif kind == 'list':
        torch.save([1, 2], path)
    return trace


WRONG_FILES = {
    'hostile': 'io.open',
    'hostile, old format': 'io.open',
    'hostile pickle': 'cannot be read|io.open',
    'truncated': 'is cut off',
    'truncated, old format': 'is cut off',
    'empty': 'is empty',
    'web page': 'is a web page',
    'text': 'cannot be read',
    'list': 'holds a list',
    'absent': 'There is no checkpoint file',
}


@pytest.mark.parametrize('kind', WRONG_FILES)
def test_invalid_files_are_refused(kind, files, tmp_path, as_in_our_tools):
    path = tmp_path / 'wrong.pth'
    trace = write_wrong_file(kind, path, files)
    for door in (
        lambda: build(f'mobilevig://{path}'),
        lambda: build(str(path)),
        lambda: load_checkpoint(MobileViG('ti'), str(path)),
    ):
        with pytest.raises(UserError, match=WRONG_FILES[kind]) as error:
            door()
        assert str(path) in str(error.value)
        assert len(str(error.value)) < 400  # not torch's page of advice
        assert not trace.exists()


def test_malicious_file_runs_code_in_the_unsafe_mode(tmp_path):
    """The test above would see it."""
    trace = tmp_path / 'trace'
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()


def test_commands_force_the_safe_mode(tmp_path, monkeypatch):
    """Also on who asks for the unsafe one, as OneDL's MMEngine does."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    trace = write_wrong_file('hostile', tmp_path / 'wrong.pth', None)

    @command(lambda argv: Namespace())
    def tool(args):
        torch.load(tmp_path / 'wrong.pth', weights_only=False)

    with pytest.raises(pickle.UnpicklingError):
        tool()
    assert not trace.exists()


def test_types_that_torch_allows_are_of_no_importance(files):
    """torch's context manager, which OneDL's MMEngine uses, takes away what was allowed
    before it as well."""
    with torch.serialization.safe_globals(torch.serialization.get_safe_globals()):
        pass
    try:
        assert not torch.serialization.get_safe_globals()
        assert 'args' in read_checkpoint(files / 'good.pth.tar')
    finally:
        allow_checkpoint_types()


def test_getattr_is_allowed_for_history_statistics_only(tmp_path):
    """MMEngine's histories are written with getattr: only for them."""

    class Getattr:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    torch.save({'x': Getattr()}, tmp_path / 'wrong.pth')
    with pytest.raises(UserError, match='getattr'):
        read_checkpoint(tmp_path / 'wrong.pth')


def test_types_that_mmengine_saves_are_read(tmp_path):
    """What MMEngine writes is read back, also as NumPy 1 wrote it."""
    history = HistoryBuffer()
    for i in range(5):
        history.update(i / 4, 1)
    path = tmp_path / 'a.pth'
    torch.save(
        {
            'message_hub': {'loss': history},
            'best': [np.float64(0.5), np.float32(0.25), np.int64(3)],
            'args': Namespace(lr=1),
        },
        path,
    )
    old = tmp_path / 'numpy1.pth'
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(old, 'w') as b:
        for name in a.namelist():
            data = a.read(name)
            assert name != 'a/data.pkl' or b'numpy' in data
            b.writestr(
                name,
                data.replace(b'numpy._core', b'numpy.core')
                if b'numpy._core' in data
                else data.replace(b'numpy.core', b'numpy._core'),
            )
    for file in (path, old):
        loaded = read_checkpoint(file)
        values, counts = loaded['message_hub']['loss'].data
        assert values.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert counts.tolist() == [1] * 5
        assert loaded['message_hub']['loss'].statistics('mean', 2) == 0.875
        assert loaded['best'] == [0.5, 0.25, 3]
        assert type(loaded['best'][1]) is np.float32
        assert loaded['args'].lr == 1


RAW, AVERAGED = {'a.weight': torch.zeros(1)}, {'a.weight': torch.ones(1)}
WRAPPED = {f'module.{key}': value for key, value in RAW.items()}


@pytest.mark.parametrize(
    'checkpoint, averaged',
    [
        ({'state_dict': RAW, 'state_dict_ema': AVERAGED}, AVERAGED),
        ({'state_dict': AVERAGED, 'ema_state_dict': {**WRAPPED, 'steps': 3}}, AVERAGED),
        ({'model': RAW}, None),
        ({'state_dict': WRAPPED, 'meta': {}}, None),
        (RAW, None),
    ],
    ids=['timm', 'EMAHook', 'DeiT', 'DDP', 'bare'],
)
def test_raw_and_averaged_weights_of_every_layout(checkpoint, averaged):
    assert both_weights(checkpoint) == (RAW, averaged)
    chosen = prefer_averaged(checkpoint, 'a.pth')
    assert chosen['state_dict'] == (RAW if averaged is None else averaged)
    assert chosen.get('ema_state_dict') == checkpoint.get('ema_state_dict')
    assert chosen.get('meta') == checkpoint.get('meta')


def test_archive_that_cannot_be_checked_is_refused(tmp_path):
    """torch compares no checksum of the pickle, and would read it."""
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'a.weight': torch.zeros(1)}}, path)
    data = path.read_bytes()
    assert data.count(b'a.weight') == 1
    path.write_bytes(data.replace(b'a.weight', b'b.weight'))
    assert torch.load(path, weights_only=True)
    with pytest.raises(UserError, match='cannot be read.*CRC'):
        read_checkpoint(path)


def equal(one, other):
    """Whether two contents are of the same types and values, bit by bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (
            (one.dtype, one.shape, one.stride(), one.requires_grad)
            == (other.dtype, other.shape, other.stride(), other.requires_grad)
        ) and one.untyped_storage().tolist() == other.untyped_storage().tolist()
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, HistoryBuffer):
        return all(map(equal, one.data, other.data)) and (
            one.max_length == other.max_length
        )
    if isinstance(one, Namespace):
        return equal(vars(one), vars(other))
    if isinstance(one, dict):
        return (
            list(one) == list(other)
            and all(equal(one[key], other[key]) for key in one)
            and getattr(one, '_metadata', 0) == getattr(other, '_metadata', 0)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def honest_content():
    """What torch, MMEngine and the authors save, of every type."""
    base = torch.arange(24.0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    history = HistoryBuffer(max_length=7)
    for i in range(9):
        history.update(i / 3, i)
    types = 'float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64'
    return {
        'state_dict': model.state_dict(),
        'model': {'weight': model[0].weight, 'bias': torch.empty(0)},
        'optimizer': optimizer.state_dict(),
        'scheduler': scheduler.state_dict(),
        'views': [base, base[5:], base.view(4, 6).t(), base[::5], base[3].clone()],
        'types': [torch.ones(3).to(getattr(torch, name)) for name in types.split()],
        'new types': [torch.ones(2, dtype=torch.uint16),
                      torch.ones(2).to(torch.float8_e4m3fn)],
        'random state': torch.get_rng_state(),
        'history': OrderedDict(loss=history, empty=HistoryBuffer()),
        'arrays': [np.arange(6, dtype='i2').reshape(2, 3).T, np.zeros((0, 3)),
                   np.float16(2), np.bool_(True), np.uint8(3), np.complex64(1j)],
        'meta': {'CLASSES': ('a', 'é\ud800'), 'PALETTE': [(1, 2, 3)], 3: None},
        'values': [1.5, -1, 2**62, -(2**70), 1j, b'\0\xff', True, {'a', 1}, ()],
        'of torch': [torch.float16, torch.device('cuda', 1), torch.Size([2, 3])],
        'args': Namespace(lr=1e-3, opt_betas=None),
    }  # fmt: skip


@pytest.mark.parametrize('new', [True, False], ids=['zip', 'before 1.6'])
def test_every_value_is_read_as_torch_reads_it(tmp_path, new):
    content = honest_content()
    if not new:
        del content['new types']
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
    reference = torch.load(tmp_path / 'a.pth', weights_only=False)
    found = read_checkpoint(tmp_path / 'a.pth')
    assert found.keys() == content.keys()
    for key, value in reference.items():
        assert equal(found[key], value), key
    assert found['state_dict']['0.weight'] is not found['model']['weight']
    found['views'][1][0] = 7  # of the same memory
    assert found['views'][0][5] == 7
    meta = read_checkpoint(tmp_path / 'a.pth', 'meta')
    assert meta['state_dict']['0.weight'].is_meta
    assert meta['views'][2].shape == (6, 4)


def test_archive_without_the_entries_of_newer_versions_is_read(tmp_path):
    """torch 1.6 to 1.13 wrote no byte order and named storages by addresses."""
    content = {'state_dict': {'a.weight': torch.rand(3, 5)}}
    torch.save(content, tmp_path / 'new.pth')
    with (
        zipfile.ZipFile(tmp_path / 'new.pth') as new,
        zipfile.ZipFile(tmp_path / 'old.pth', 'w') as old,
    ):
        data = new.read('new/data.pkl')
        assert data.count(b'X\1\0\0\0' + b'0') == 1
        data = data.replace(b'X\1\0\0\0' + b'0', b'X\5\0\0\0' + b'94123')
        old.writestr('archive/data.pkl', data)
        old.writestr('archive/data/94123', new.read('new/data/0'))
        old.writestr('archive/version', '3\n')
    assert equal(read_checkpoint(tmp_path / 'old.pth'), content)


def test_safetensors_are_read(tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    weights = {'a.weight': torch.rand(3, 5), 'b': torch.arange(4)}
    save_file(weights, tmp_path / 'a.safetensors')
    found = read_checkpoint(tmp_path / 'a.safetensors')
    assert equal(dict(sorted(found.items())), weights)
    assert read_checkpoint(tmp_path / 'a.safetensors', 'meta')['b'].is_meta
