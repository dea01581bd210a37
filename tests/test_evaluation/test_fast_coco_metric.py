"""FastCocoMetric against CocoMetric, and with it pycocotools' own COCOeval."""

import copy
import json
import os
from pathlib import Path

from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError
from mobilevig_det.evaluation import FastCocoMetric, fast_coco_metric

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS, init_default_scope
from pycocotools.cocoeval import COCOeval

COCO_ANNOTATIONS = Path(__file__).parents[1] / 'data' / 'coco_annotations.json'
# COCOeval divides by true and false positives + np.spacing(1), faster-coco-eval by
# their sum: where one detection was made and is right, its precision is 1 less this.
TINY = 4.5e-16


@pytest.fixture
def evaluations(monkeypatch):
    """Every COCOeval that was summed up, however it was computed."""
    seen = []
    real = COCOeval.summarize

    def summarize(self):
        real(self)
        seen.append(self)

    monkeypatch.setattr(COCOeval, 'summarize', summarize)
    return seen


def random_polygon(rng, width, height):
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    centre, radius = rng.uniform(0, [width, height]), rng.uniform(1, width / 2 + 1)
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return points.clip(0, [width, height]).round(2)


def random_truth(rng):
    """Classes and images without objects, crowds of both kinds, an id of 0."""
    categories = [dict(id=3 * i + 1, name=f'c{i}') for i in range(rng.integers(1, 5))]
    images, annotations = [], []
    for image_id in rng.permutation(20)[: rng.integers(1, 6)].tolist():
        width, height = rng.integers(1, 250, 2).tolist()
        images.append(dict(id=image_id, width=width, height=height, file_name=''))
        for _ in range(rng.integers(0, 8)):
            points = random_polygon(rng, width, height)
            (x, y), (w, h) = points.min(0), np.ptp(points, 0)
            shape = [points.ravel().tolist()]
            crowd = int(rng.random() < 0.2)
            if crowd and rng.random() < 0.5:
                mask = mask_utils.decode(mask_utils.frPyObjects(shape, height, width))
                flat = np.concatenate([[0], mask.any(2).ravel(order='F'), [2]])
                lengths = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
                shape = dict(size=[height, width], counts=lengths)
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=image_id,
                    category_id=int(rng.choice([c['id'] for c in categories])),
                    bbox=[float(v) for v in (x, y, w, h)],
                    area=float(rng.choice([w * h, 32**2, 96**2, 0])),
                    iscrowd=crowd,
                    segmentation=shape,
                )
            )
    return dict(images=images, annotations=annotations, categories=categories)


def made_up(rng, truth, most=8):
    """Objects that are found up to three times, shifted and relabelled, with as
    many others, and scores that may all be of four values."""
    ids = [c['id'] for c in truth['categories']]
    samples = []
    for image in truth['images']:
        width, height = image['width'], image['height']
        boxes, labels = [], []
        for annotation in truth['annotations']:
            if annotation['image_id'] != image['id']:
                continue
            x, y, w, h = annotation['bbox']
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(size=4) * rng.choice([0, 0, 0.05, 0.2]) * max(w, h)
                boxes.append(np.array([x, y, x + w, y + h]) + shift)
                right = rng.random() < 0.8
                labels.append(
                    ids.index(annotation['category_id'])
                    if right
                    else rng.integers(0, len(ids))
                )
        for _ in range(rng.integers(0, most)):
            boxes.append(np.sort(rng.uniform(0, [width, height], (2, 2)), 0).ravel())
            labels.append(rng.integers(0, len(ids)))
        number = len(boxes)
        masks = torch.zeros(number, height, width, dtype=torch.bool)
        for mask, box in zip(masks, boxes):
            x1, y1, x2, y2 = np.maximum(box, 0).round().astype(int)
            mask[y1:y2, x1:x2] = True
        scores = rng.random(number)
        if rng.random() < 0.5:
            scores = rng.choice([0.1, 0.2, 0.5, 0.9], number)
        found = dict(
            bboxes=torch.tensor(np.reshape(boxes, (-1, 4)), dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.long),
            scores=torch.tensor(scores, dtype=torch.float32),
            masks=masks,
        )
        if rng.random() < 0.3:
            found['mask_scores'] = found['scores'].flip(0)
        samples.append(
            dict(img_id=image['id'], ori_shape=(height, width), pred_instances=found)
        )
    return samples


def evaluate(kind, path, samples, classes, **kwargs):
    metric = kind(ann_file=path and str(path), **kwargs)
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, copy.deepcopy(samples))
    return metric.evaluate(len(samples))


def assert_equal(evaluations, got, want):
    assert list(got) == list(want)
    np.testing.assert_equal(got, want)  # NaN too
    half = len(evaluations) // 2
    for stock, ours in zip(evaluations[:half], evaluations[half:], strict=True):
        np.testing.assert_allclose(ours.stats, stock.stats, rtol=0, atol=TINY)
        for name in 'precision', 'recall', 'scores':
            one, other = ours.eval[name], stock.eval[name]
            np.testing.assert_allclose(one, other, rtol=0, atol=TINY, err_msg=name)


@pytest.mark.parametrize('seed', range(30))
def test_random_cases(seed, evaluations, tmp_path):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(truth))
    samples = made_up(rng, truth, int(rng.choice([1, 8, 150])))
    kwargs = dict(
        metric=['bbox', 'segm', 'proposal'],
        classwise=bool(rng.integers(2)),
        proposal_nums=[(100, 300, 1000), (1, 10, 100), (2, 5, 7), (30, 10, 1)][
            seed % 4
        ],
    )
    classes = [c['name'] for c in truth['categories']]
    want = evaluate(CocoMetric, path, samples, classes, **kwargs)
    got = evaluate(FastCocoMetric, path, samples, classes, **kwargs)
    assert_equal(evaluations, got, want)
    if any(len(s['pred_instances']['labels']) for s in samples):
        assert len(evaluations) == 6
        assert isinstance(evaluations[-1], fast_coco_metric.CompiledCOCOeval)
        assert not isinstance(evaluations[0], fast_coco_metric.CompiledCOCOeval)
    else:
        assert got == {}


@pytest.mark.parametrize('compiled', [True, False])
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(metric=['bbox', 'segm'], classwise=True),
        dict(metric='proposal', metric_items=['AR@300', 'AR_s@1000']),
        dict(metric='segm', iou_thrs=np.array([0.5, 0.6, 0.75])),
        dict(metric='bbox', sort_categories=True, metric_items=['mAP', 'AR@100']),
        dict(metric=['segm'], prefix='mine', use_mp_eval=True),
    ],
)
def test_coco(kwargs, compiled, evaluations, monkeypatch):
    """COCO's own annotations, with classes that have no objects."""
    if not compiled:
        monkeypatch.setattr(fast_coco_metric, 'faster_coco_eval', None)
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(0), truth, 120)
    classes = [c['name'] for c in truth['categories']]
    want = evaluate(CocoMetric, COCO_ANNOTATIONS, samples, classes, **kwargs)
    got = evaluate(FastCocoMetric, COCO_ANNOTATIONS, samples, classes, **kwargs)
    assert_equal(evaluations, got, want)
    shown = [v for k, v in got.items() if k.endswith('mAP')]
    assert all(0.05 < value < 0.95 for value in shown)  # a case in between


def test_shapes(shapes_root, evaluations):
    path = shapes_root / 'annotations' / 'instances_val.json'
    truth = json.loads(path.read_text())
    samples = made_up(np.random.default_rng(0), truth, 20)
    classes = [c['name'] for c in truth['categories']]
    want = evaluate(CocoMetric, path, samples, classes, metric=['bbox', 'segm'])
    got = evaluate(FastCocoMetric, path, samples, classes, metric=['bbox', 'segm'])
    assert_equal(evaluations, got, want)


def test_proposal_fast(tmp_path):
    """Of one image: MMDetection's own fails on several, where NumPy is new."""
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    truth['images'] = truth['images'][:1]
    path = tmp_path / 'one.json'
    path.write_text(json.dumps(truth))
    samples = made_up(np.random.default_rng(0), truth)
    classes = [c['name'] for c in truth['categories']]
    kwargs = dict(metric=['proposal_fast', 'bbox'], proposal_nums=(1, 10, 100))
    want = evaluate(CocoMetric, path, samples, classes, **kwargs)
    assert evaluate(FastCocoMetric, path, samples, classes, **kwargs) == want
    assert 0 < want['coco/AR@1'] < 1


@pytest.mark.parametrize('format_only', [True, False])
def test_files_where_they_are_asked_for(format_only, tmp_path, monkeypatch):
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(1), truth)
    classes = [c['name'] for c in truth['categories']]
    written = []
    for kind in CocoMetric, FastCocoMetric:
        folder = tmp_path / kind.__name__
        kwargs = dict(metric=['bbox', 'segm'], format_only=format_only)
        got = evaluate(
            kind,
            COCO_ANNOTATIONS,
            samples,
            classes,
            outfile_prefix=str(folder / 'found'),
            **kwargs,
        )
        assert bool(got) is not format_only
        written.append({p.name: p.read_text() for p in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {'found.bbox.json', 'found.segm.json'}

    def refuse(*args, **kwargs):
        raise AssertionError('a file was written')

    monkeypatch.setattr('mmdet.evaluation.metrics.coco_metric.dump', refuse)
    monkeypatch.setattr('mmdet.evaluation.metrics.coco_metric.load', refuse)
    monkeypatch.setattr('tempfile.mkdtemp', refuse)
    assert evaluate(FastCocoMetric, COCO_ANNOTATIONS, samples, classes)


def test_truth_of_the_samples(evaluations):
    """Without a file of annotations, as CocoMetric makes one of the samples."""
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(2), truth)
    for sample in samples:
        sample['instances'] = [
            dict(bbox_label=int(label), bbox=box.tolist(), ignore_flag=i % 3 == 2)
            for i, (label, box) in enumerate(
                zip(
                    sample['pred_instances']['labels'],
                    sample['pred_instances']['bboxes'] + 3,
                )
            )
        ]
    classes = [c['name'] for c in truth['categories']]
    want = evaluate(CocoMetric, None, samples, classes)
    got = evaluate(FastCocoMetric, None, samples, classes)
    assert_equal(evaluations, got, want)
    assert 0 < got['coco/bbox_mAP'] < 1


def test_what_the_compiled_one_cannot(evaluations, tmp_path):
    """Names as ids, and scores that are not finite, go to pycocotools."""
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(3), truth)
    classes = [c['name'] for c in truth['categories']]
    for sample in samples[:2]:
        sample['pred_instances']['scores'][:1] = float('nan')
    got = evaluate(FastCocoMetric, COCO_ANNOTATIONS, samples, classes)
    assert type(evaluations[-1]) is COCOeval
    want = evaluate(CocoMetric, COCO_ANNOTATIONS, samples, classes)
    assert got == want

    for entry, key in [
        *((image, 'id') for image in truth['images']),
        *((annotation, 'image_id') for annotation in truth['annotations']),
        *((sample, 'img_id') for sample in samples),
    ]:
        entry[key] = f'{entry[key]:06}'
    path = tmp_path / 'named.json'
    path.write_text(json.dumps(truth))
    assert evaluate(FastCocoMetric, path, samples, classes) == want
    assert type(evaluations[-1]) is COCOeval


def test_ids_of_another_type_are_not_converted(tmp_path):
    """pycocotools finds no object in an image if "1" is written for 1."""
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(3), truth)
    classes = [c['name'] for c in truth['categories']]
    for annotation in truth['annotations'][::2]:
        annotation['image_id'] = str(annotation['image_id'])
    path = tmp_path / 'text.json'
    path.write_text(json.dumps(truth))
    want = evaluate(CocoMetric, path, samples, classes)
    assert evaluate(FastCocoMetric, path, samples, classes) == want


def test_errors():
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(4), truth)
    classes = [c['name'] for c in truth['categories']]
    run = evaluate, FastCocoMetric, COCO_ANNOTATIONS
    with pytest.raises(KeyError, match='"mAR" is not supported'):
        run[0](*run[1:], samples, classes, metric_items=['mAP', 'mAR'])
    boxes = copy.deepcopy(samples)
    for sample in boxes:
        del sample['pred_instances']['masks']
    with pytest.raises(KeyError, match='segm is not in results'):
        run[0](*run[1:], boxes, classes, metric='segm')
    samples[0]['img_id'] = 5
    with pytest.raises(UserError, match='found in image 5, which the annotations'):
        run[0](*run[1:], samples, classes)


def test_masks_that_are_no_tensors_stay():
    """A detector may give run lengths itself, or masks that are not boolean."""
    truth = json.loads(COCO_ANNOTATIONS.read_text())
    samples = made_up(np.random.default_rng(5), truth)
    classes = [c['name'] for c in truth['categories']]
    kwargs = dict(metric='segm')
    want = evaluate(CocoMetric, COCO_ANNOTATIONS, samples, classes, **kwargs)
    for change in (
        lambda masks: masks.to(torch.uint8),
        lambda masks: [
            mask_utils.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            for mask in masks
        ],
    ):
        other = copy.deepcopy(samples)
        for sample in other:
            found = sample['pred_instances']
            found['masks'] = change(found['masks'])
        assert evaluate(FastCocoMetric, COCO_ANNOTATIONS, other, classes, **kwargs) == (
            want
        )


@pytest.mark.parametrize(
    'name',
    ['mobilevig_m_fpn_1x', 'mobilevig_ti_fpn_shapes', 'retinanet_mobilevig_m_fpn_1x'],
)
def test_configs_take_it(name, shapes_root, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = load_config(name).test_evaluator
    assert cfg.type == 'mobilevig_det.evaluation.FastCocoMetric'
    if 'shapes' in name:
        init_default_scope('mmdet')
        assert os.path.exists(cfg.ann_file)
        assert isinstance(METRICS.build(cfg), FastCocoMetric)
