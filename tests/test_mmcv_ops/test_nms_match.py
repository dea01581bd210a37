"""Groups of boxes by mmcv's nms_match, compared with the definition."""

import importlib

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import nms as module

import numpy as np
import pytest
import torch
from naive_ops import nms_match as naive

MMCV = importlib.import_module('mmcv.ops.nms')


@pytest.fixture(autouse=True)
def on_our_operators(monkeypatch):
    monkeypatch.setattr(MMCV, 'ext_module', module)


def nms_match(dets, threshold):
    return [group.tolist() for group in MMCV.nms_match(dets, threshold)]


def random_dets(number, spread=20):
    generator = np.random.default_rng(number)
    corner = generator.uniform(0, spread, (number, 2))
    size = generator.uniform(1, 12, (number, 2))
    scores = generator.permutation(number)[:, None] / max(number, 1)
    return np.concatenate([corner, corner + size, scores], 1)


def test_recorded_result_of_compiled_mmcv():
    boxes = [(0, 0, 10, 10), (1, 1, 11, 11), (20, 20, 30, 30), (0, 0, 9, 10)]
    boxes.append((21, 20, 30, 30))
    scores = torch.tensor([0.9, 0.8, 0.95, 0.3, 0.2])
    dets = torch.cat([torch.tensor(boxes).float(), scores[:, None]], 1)
    assert nms_match(dets, 0.5) == [[2, 4], [0, 1, 3]]


@pytest.mark.parametrize('block', [2, 5, 128])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.9])
@pytest.mark.parametrize('number', [0, 1, 2, 60])
def test_equals_the_definition(number, threshold, block, monkeypatch):
    monkeypatch.setattr(module, 'BLOCK', block)
    dets = random_dets(number)
    assert nms_match(dets, threshold) == naive(dets, threshold)


def test_overlap_of_exactly_the_threshold_suppresses():
    dets = torch.tensor([[0.0, 0, 2, 1, 0.9], [0, 0, 1, 1, 0.8], [0, 0, 1.9, 1, 0.7]])
    assert nms_match(dets, 0.5) == [[0, 1, 2]]
    assert nms_match(dets, 0.51) == [[0, 2], [1]]  # which isn't of box 1


def test_boxes_without_area_or_with_nan_are_kept():
    dets = torch.tensor(
        [
            [3, 3, 3, 3, 0.9],
            [3, 3, 3, 3, 0.8],
            [0, torch.nan, 9, 9, 0.7],
            [0, 0, 9, 9, 0.6],
        ]
    )
    assert nms_match(dets, 0.5) == [[0], [1], [2], [3]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_compared_as_float32(dtype):
    dets = torch.from_numpy(random_dets(40)).to(dtype)
    assert nms_match(dets, 0.3) == nms_match(dets.float(), 0.3)


def test_result_is_of_the_type_of_the_boxes():
    dets = random_dets(3)
    assert all(isinstance(group, np.ndarray) for group in MMCV.nms_match(dets, 0.5))
    for group in MMCV.nms_match(torch.from_numpy(dets), 0.5):
        assert group.dtype == torch.long


def test_error_for_a_wrong_shape():
    with pytest.raises(UserError, match=r'dets must be of shape \(N, 5\)'):
        module.nms_match(torch.zeros(2, 4), 0.5)
