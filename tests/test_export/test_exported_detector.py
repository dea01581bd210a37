"""tools/test.py and infer_ray.py with an exported model."""

import json
import pickle

from mobilevig_det import Detector

import cv2
import numpy as np
import pytest
import tool
from bad_images import picture
from pycocotools import mask as mask_utils
from ray_in_process import run_workers_here

CONFIG = 'mobilevig_ti_fpn_shapes'


def test_the_same_detections(exported_tiny, shapes_root, tmp_path, monkeypatch):
    """As with the checkpoint."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    results = []
    for name in 'epoch_1.pth', 'model.onnx':
        out = tmp_path / f'{name}.pkl'
        options = '--work-dir', tmp_path, '--out', out, *tool.SMALL
        assert tool.run('test', CONFIG, exported_tiny / name, *options) == 0
        results.append(pickle.loads(out.read_bytes()))
    for a, b in zip(*([x['pred_instances'] for x in found] for found in results)):
        assert len(a['scores']) == len(b['scores']) > 0
        assert np.allclose(a['scores'], b['scores'], atol=1e-4)
        assert np.allclose(a['bboxes'], b['bboxes'], atol=0.05)
        for one, other in zip(a['masks'], b['masks']):
            one, other = mask_utils.decode(one), mask_utils.decode(other)
            assert (one != other).sum() <= max(1, 5e-3 * one.sum())


@pytest.mark.parametrize('ray', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rows_of_infer_ray(ray, exported_tiny, tmp_path, monkeypatch):
    """Against the file's own run, without PyTorch."""
    pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
    import pyarrow.parquet as pq

    if not ray:
        run_workers_here(monkeypatch)
    model, images, out = exported_tiny / 'model.onnx', tmp_path / 'in', tmp_path / 'out'
    images.mkdir()
    for i, size in enumerate([(160, 120), (93, 201), (31, 33), (640, 427), (1, 1)]):
        picture(*size).rotate(40 * i).save(images / f'{i}.png')
    options = '--checkpoint', model, '--score-thr', 0.4, '--block-size', 2
    assert tool.run('infer_ray', images, *options, '--out-dir', out) == 0
    run_onnx = tool.load('run_onnx')
    detector = run_onnx.Detector(model)
    rows = pq.read_table(out / 'rows').to_pylist()
    assert len(rows) == 5 and sum(len(row['labels']) for row in rows) > 20
    for row in rows:
        expected = detector(run_onnx.read_image(row['image']), 0.4)
        boxes = expected['boxes'].reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        pairs = list(partners(row, expected, boxes))
        # Rounding, which depends on the threads, may decide about single boxes.
        most = max(len(row['labels']), len(boxes))
        assert len(pairs) >= most - max(2, 0.05 * most) * (most > 0)
        for one, other in pairs:
            mask = expected['masks'][other]
            differ = mask_utils.decode(row['masks'][one]) != mask
            assert differ.sum() <= max(1, 5e-3 * mask.sum())


def partners(row, expected, boxes):
    """Pairs of equal detections: a row's, and another of the same label and score."""
    for i, (label, score, box) in enumerate(
        zip(row['labels'], row['scores'], row['boxes'])
    ):
        equal = (expected['labels'] + 1 == label) & (
            abs(expected['scores'] - score) < 1e-5
        )
        equal &= (abs(boxes - box) < 1e-3).all(1)
        if equal.any():
            yield i, int(equal.argmax())


def test_the_file_is_all_that_the_python_api_and_the_command_need(
    exported_tiny, tmp_path
):
    """Without a config, alone and in a stream; as the file's own runner."""
    images = [np.asarray(picture(*size)) for size in [(160, 120), (93, 201), (31, 33)]]
    detector = Detector(exported_tiny / 'model.onnx', score_thr=0.4)
    run_onnx = tool.load('run_onnx')
    own = run_onnx.Detector(exported_tiny / 'model.onnx')
    names = [str(tmp_path / f'{i}.png') for i in range(len(images))]
    for image, name, result in zip(images, names, detector.stream(images)):
        expected = own(image, 0.4)
        cv2.imwrite(name, image)
        for found in result, detector(image), detector(name):
            assert found.labels.tolist() == expected['labels'].tolist()
            np.testing.assert_allclose(found.scores, expected['scores'], atol=1e-5)
            boxes = expected['boxes'].reshape(-1, 4)
            np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
            for one, other in zip(found.masks, expected['masks'], strict=True):
                assert (one != other).sum() <= max(1, 5e-3 * other.sum())
    options = '--checkpoint', exported_tiny / 'model.onnx', '--score-thr', 0.4
    out = tmp_path / 'out'
    assert tool.run('predict', *names, *options, '--out-dir', out) == 0
    content = json.loads((out / 'predictions.json').read_text())
    assert len(content['annotations']) == sum(len(detector(name)) for name in names)
    assert len(list((out / 'vis').iterdir())) == len(names)


@pytest.mark.parametrize('flag', ['--fuse', '--tta'])
def test_flags_for_checkpoints(flag, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    message = tool.run('test', CONFIG, 'a.onnx', flag, '--work-dir', tmp_path)
    assert f'{flag} is for checkpoints' in message


def test_a_phones_file(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    message = tool.run('test', CONFIG, 'a.pte', '--work-dir', tmp_path)
    assert 'a.pte is a backbone' in message
