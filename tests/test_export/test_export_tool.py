"""tools/export.py writes complete, verified files, or none."""

import json
import re

from mobilevig_det.errors import UserError
from mobilevig_det.export import load, new_files
from mobilevig_det.export import onnx as onnx_export

import onnx
import pytest
import torch
from exported import build, config
from tool import run


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """config.py and epoch_1.pth of a tiny Faster R-CNN."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = config('Faster R-CNN')
    cfg.dump(folder / 'config.py')
    meta = dict(dataset_meta=dict(classes=('circle', 'square', 'triangle')))
    torch.save(
        dict(state_dict=build(cfg).state_dict(), meta=meta), folder / 'epoch_1.pth'
    )
    return folder


def export(folder, *flags):
    return run('export', folder / 'config.py', folder / 'epoch_1.pth', *flags)


def test_writes_one_file_with_its_metadata(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(trained, '--format', 'onnx') == 0
    path = tmp_path / 'work_dirs' / 'export' / 'config.onnx'
    assert [p.name for p in path.parent.iterdir()] == ['config.onnx']
    assert re.search(r'^\| 64 x 320 ', capsys.readouterr().out, re.M)
    metadata = load(path).metadata
    assert metadata | {'versions': None} == {
        'format': 1,
        'part': 'detector',
        'family': 'FasterRCNN',
        'config': 'config',
        'classes': ['circle', 'square', 'triangle'],
        'palette': [[220, 20, 60], [0, 120, 220], [60, 180, 60]],
        'mean': pytest.approx([123.675, 116.28, 103.53]),
        'std': pytest.approx([58.395, 57.12, 57.375]),
        'bgr_to_rgb': True,
        'resize': {'scale': [128, 128], 'keep_ratio': True},
        'pad': None,
        'pad_size_divisor': 32,
        'pad_value': 0,
        'masks': None,
        'score_thr': 0.05,
        'max_per_img': 50,
        'fixed_size': None,
        'int8': False,
        'versions': None,
    }
    assert set(metadata['versions']) == {'mobilevig_det', 'torch', 'onnx'}
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == 'mobilevig_det' and json.loads(entry.value) == metadata


def test_a_wrong_file_is_not_kept(trained, traced_once, tmp_path, monkeypatch):
    def save_wrong(model, *args):
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        array = onnx.numpy_helper.to_array(weight) * 1.01
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        save(model, *args)

    save = onnx_export.save_onnx
    monkeypatch.setattr(onnx_export, 'save_onnx', save_wrong)
    out = tmp_path / 'm.onnx'
    out.write_text('before')
    message = export(trained, '--format', 'onnx', '--out', out)
    assert 'something else than the model' in message
    assert [p.name for p in tmp_path.iterdir()] == ['m.onnx']
    assert out.read_text() == 'before'


@pytest.mark.parametrize(
    'flags,words',
    [
        (['--format', 'coreml', '--part', 'detector'], '--part backbone only'),
        (
            ['--format', 'executorch', '--part', 'detector'],
            'supports --part backbone only',
        ),
        (['--format', 'onnx', '--size', '64', '64'], 'images of any size'),
        (
            ['--format', 'onnx', '--part', 'backbone', '--size', '16', '64'],
            'no images of that size',
        ),
        (['--format', 'onnx', '--out', 'm.xml'], 'must end in .onnx'),
        (['--format', 'onnx', '--out', '/dev/null/m.onnx'], 'cannot be written'),
        (
            ['--format', 'onnx', '--cfg-options', 'model.backbone.graph_stride=0'],
            'graph_stride',
        ),
    ],
)
def test_bad_flags(trained, flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in str(export(trained, *flags))
    assert not list(tmp_path.rglob('*.*'))


def test_checkpoint_of_another_arch(trained, tmp_path):
    message = export(
        trained,
        *('--format', 'onnx', '--out', tmp_path / 'm.onnx'),
        *('--cfg-options', 'model.roi_head.bbox_head.fc_out_channels=8'),
    )
    assert 'does not fit' in message
    assert not list(tmp_path.iterdir())


def test_missing_package(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    message = export(trained, '--format', 'onnx', '--out', tmp_path / 'm.onnx')
    assert 'pip install "mobilevig_det[export]"' in message
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path):
    with pytest.raises(UserError, match='cannot be written: .*No space left'):
        with new_files(tmp_path / 'm.onnx') as path:
            path.write_text('half')
            with open('/dev/full', 'w') as full:
                full.write('x' * 100_000)
    assert not list(tmp_path.iterdir())
