"""tools/test.py with an exported model against itself with the checkpoint."""

import pickle

import numpy as np
import pytest
import tiny_detector
import tool
from pycocotools import mask as mask_utils

CONFIG = 'mobilevig_ti_fpn_shapes'


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    common = folder / 'config.py', folder / 'epoch_1.pth', '--format', 'onnx'
    assert tool.run('export', *common, '--out', folder / 'model.onnx') == 0
    return folder


def test_the_same_detections(model_dir, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    results = []
    for name in 'epoch_1.pth', 'model.onnx':
        out = tmp_path / f'{name}.pkl'
        options = '--work-dir', tmp_path, '--out', out, *tool.SMALL
        assert tool.run('test', CONFIG, model_dir / name, *options) == 0
        results.append(pickle.loads(out.read_bytes()))
    for a, b in zip(*([x['pred_instances'] for x in found] for found in results)):
        assert len(a['scores']) == len(b['scores']) > 0
        assert np.allclose(a['scores'], b['scores'], atol=1e-4)
        assert np.allclose(a['bboxes'], b['bboxes'], atol=0.05)
        for one, other in zip(a['masks'], b['masks']):
            one, other = mask_utils.decode(one), mask_utils.decode(other)
            assert (one != other).sum() <= max(1, 5e-3 * one.sum())


@pytest.mark.parametrize('flag', ['--fuse', '--tta'])
def test_flags_for_checkpoints(flag, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    message = tool.run('test', CONFIG, 'a.onnx', flag, '--work-dir', tmp_path)
    assert f'{flag} is for checkpoints' in message


def test_a_phones_file(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    message = tool.run('test', CONFIG, 'a.pte', '--work-dir', tmp_path)
    assert 'a.pte is a backbone' in message
