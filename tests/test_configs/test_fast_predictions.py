"""Predictions are the same with every fast path on and off (docs/speed.md)."""

import copy

from mobilevig_det.config import load_config
from mobilevig_det.ops import cpu_fast_paths

import numpy as np
import pytest
import tiny_detector
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

THRESHOLD = 0.3


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Of a detector whose scores are far apart."""
    folder = tmp_path_factory.mktemp('tiny')
    tiny_detector.make(folder)
    return torch.load(folder / 'epoch_1.pth', weights_only=True)['state_dict']


def predictions(weights, root, fast):
    """Return the detections of the shapes' test images, and how many convolutions take
    Winograd's algorithm."""
    cfg = copy.deepcopy(load_config('mobilevig_ti_fpn_shapes'))
    init_default_scope('mmdet')
    cfg.model.test_cfg.rcnn.score_thr = THRESHOLD
    cfg.model.test_cfg.rcnn.max_per_img = 1000  # no cut of which rounding decides
    cfg.model.backbone.with_cp = 'act' if fast else False
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(root)
    load = next(s for s in dataset.pipeline if s.type.endswith('Annotations'))
    assert load.type == 'mobilevig_det.datasets.loading.LoadCompactAnnotations'
    if not fast:
        load.type = 'LoadAnnotations'
    assert cpu_fast_paths.cpu_fast_paths_enabled(cfg)
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(weights)
    if fast:
        cpu_fast_paths.apply_cpu_fast_paths(model)
    dataset = DATASETS.build(dataset)
    with torch.no_grad():
        found = [model.test_step(pseudo_collate([sample])) for sample in dataset]
    layers = [type(m) for m in model.modules()]
    count = layers.count(cpu_fast_paths.WinogradConv2d)
    return [sample.pred_instances.numpy() for (sample,) in found], count


def same(one, i, other, j):
    """Whether two detections are, but for rounding."""
    a, b = one.masks[i], other.masks[j]
    return (
        one.labels[i] == other.labels[j]
        and np.abs(one.bboxes[i] - other.bboxes[j]).max() <= 1e-3
        and abs(one.scores[i] - other.scores[j]) <= 1e-5
        and (a & b).sum() >= 0.999 * (a | b).sum()
    )


def test_same_predictions(weights, shapes_root, monkeypatch):
    monkeypatch.setattr(cpu_fast_paths, 'FEWEST_CHANNELS', 64)
    monkeypatch.setattr(cpu_fast_paths, 'FEWEST_TILES', 1)
    fast, turned = predictions(weights, shapes_root, True)
    plain, none = predictions(weights, shapes_root, False)
    # FPN's four, RPN's, the box head's and two of the mask head.
    assert (turned, none) == (8, 0)
    compared, labels, inside = 0, set(), 0
    for one, other in zip(fast, plain, strict=True):
        left, alone = list(range(len(other))), []
        for i in range(len(one)):
            j = next((j for j in left if same(one, i, other, j)), None)
            if j is None:
                alone.append(one.scores[i])
            else:
                left.remove(j)
        compared += len(one) - len(alone)
        # Rounding may decide only about what is at the threshold.
        for score in [*alone, *other.scores[left]]:
            assert abs(score - THRESHOLD) <= 1e-4
        assert one.scores.min() >= THRESHOLD
        labels.update(one.labels.tolist())
        share = one.masks.mean((1, 2))
        inside += ((0.01 < share) & (share < 0.9)).sum()
    # Enough of them, and not all alike.
    assert compared > 100 and inside > 50 and len(labels) > 1
