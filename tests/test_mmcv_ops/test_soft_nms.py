"""Soft-NMS (mmcv_ops/nms.py), compared with compiled mmcv and the definition."""

import importlib
import itertools
import math
import types

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops.nms import SOFT_NMS_METHODS as METHODS
from mobilevig_det.mmcv_ops.nms import softnms

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import load_cases, needs_compiled_mmcv

BOXES = load_cases('mmcv_ops_dcn.npz', 'nms')
REFERENCE = load_cases('mmcv_ops_dcn.npz', 'soft_nms')
NAN, INF = math.nan, math.inf


def soft_nms(
    boxes, scores, iou_threshold=0.3, sigma=0.5, min_score=1e-3, method='linear',
    offset=0,
):  # fmt: skip
    """Call the operator as ``mmcv.ops.soft_nms`` does."""
    dets = boxes.new_empty(len(boxes), 5)
    settings = float(iou_threshold), float(sigma), float(min_score)
    keep = softnms(boxes, scores, dets, *settings, METHODS.index(method), offset)
    return dets[: keep.shape[0]], keep


def naive(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """Run the loop of the paper on lists, for scores that are never equal."""
    left = list(range(len(boxes)))
    scores, found = scores.tolist(), []
    while left:
        best = max(left, key=scores.__getitem__)
        found.append((best, scores[best]))
        left.remove(best)
        for other in left:
            overlap = iou(boxes[best].tolist(), boxes[other].tolist(), offset)
            if method == 'gaussian':
                scores[other] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= iou_threshold:
                scores[other] *= 1 - overlap if method == 'linear' else 0
        left = [other for other in left if scores[other] >= min_score]
    return found


def iou(a, b, offset):
    width, height = (
        max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset, 0) for i in range(2)
    )
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0


@pytest.mark.parametrize('case', REFERENCE)
def test_equals_recorded_results_of_compiled_mmcv(case):
    method, count = case.split('_')
    inputs = BOXES[f'{count}_off0_t0.5']
    dets, keep = soft_nms(inputs['boxes'], inputs['scores'], 0.5, 0.5, 1e-3, method)
    assert keep.tolist() == REFERENCE[case]['keep'].tolist()
    torch.testing.assert_close(dets, REFERENCE[case]['dets'], rtol=1e-5, atol=0)


def make_boxes(count, grid, seed, dtype=torch.float32):
    """Return boxes on a grid, many of them equal, or anywhere; some have no area."""
    random = np.random.default_rng(seed)
    if grid:
        corner, size = (
            random.integers(0, 9, (count, 2)),
            random.integers(0, 7, (count, 2)),
        )
        scores = random.integers(0, 6, count) / 5
    else:
        corner, size = random.random((count, 2)) * 20, random.random((count, 2)) * 9
        scores = random.random(count)
    boxes = np.concatenate([corner, corner + size], 1)
    return torch.from_numpy(boxes).to(dtype), torch.from_numpy(scores).to(dtype)


many = given(
    count=st.integers(0, 40),
    seed=st.integers(0, 999),
    iou_threshold=st.sampled_from([0, 0.3, 0.9]),
    sigma=st.sampled_from([0.1, 0.5]),
    min_score=st.sampled_from([0, 1e-3, 0.3]),
    method=st.sampled_from(METHODS),
    offset=st.integers(0, 1),
)


@settings(max_examples=100, deadline=None)
@many
def test_equals_the_definition(count, seed, **kwargs):
    boxes, scores = make_boxes(count, False, seed, torch.float64)
    dets, keep = soft_nms(boxes, scores, **kwargs)
    expected = naive(boxes, scores, **kwargs)
    zeros = [i for i, (_, score) in enumerate(expected) if score == 0]
    end = zeros[0] if zeros else len(expected)  # equal scores, in any order
    assert keep.tolist()[:end] == [index for index, _ in expected[:end]]
    expected = dets.new_tensor([score for _, score in expected])
    torch.testing.assert_close(dets[:, 4], expected)
    assert torch.equal(dets[:, :4], boxes[keep])


@needs_compiled_mmcv
@settings(max_examples=200, deadline=None)
@many
@pytest.mark.parametrize('grid', [True, False])
def test_order_of_equal_scores_is_that_of_compiled_mmcv(grid, count, seed, **kwargs):
    mmcv_nms = importlib.import_module('mmcv.ops.nms')
    boxes, scores = make_boxes(count, grid, seed)
    expected_dets, expected_keep = mmcv_nms.soft_nms(boxes, scores, **kwargs)
    if expected_dets.isnan().any():
        return  # of 0 / 0, for boxes without an area
    dets, keep = soft_nms(boxes, scores, **kwargs)
    assert keep.tolist() == expected_keep.tolist()
    torch.testing.assert_close(dets, expected_dets, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('method', METHODS)
def test_mmcv_functions_call_the_operator(method, monkeypatch):
    mmcv_nms = importlib.import_module('mmcv.ops.nms')
    monkeypatch.setattr(mmcv_nms, 'ext_module', types.SimpleNamespace(softnms=softnms))
    boxes, scores = make_boxes(30, True, 1)
    for args in ((boxes, scores), (boxes.numpy(), scores.numpy())):
        dets, keep = mmcv_nms.soft_nms(*args, 0.4, 0.5, 0.05, method, 1)
        expected, expected_keep = soft_nms(boxes, scores, 0.4, 0.5, 0.05, method, 1)
        assert torch.equal(torch.as_tensor(dets), expected)
        assert torch.equal(torch.as_tensor(keep), expected_keep)
    config = dict(type='soft_nms', method=method, min_score=0.05)
    dets, keep = mmcv_nms.batched_nms(boxes, scores, torch.arange(30) % 3, config)
    assert len(dets) == len(keep) > 0
    dets, keep = mmcv_nms.soft_nms(boxes[:0], scores[:0], method=method)
    assert dets.shape == (0, 5) and keep.shape == (0,)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_half_types_are_computed_in_float32(dtype, method):
    boxes, scores = make_boxes(30, False, 3, dtype)
    dets, keep = soft_nms(boxes, scores, method=method)
    wide, wide_keep = soft_nms(boxes.float(), scores.float(), method=method)
    assert dets.dtype == dtype and torch.equal(keep, wide_keep)
    limit = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(dets.float(), wide, rtol=limit, atol=0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize('method', METHODS)
def test_boxes_and_scores_that_are_not_finite(method):
    """They don't lower the scores of finite boxes, and the loop ends."""
    odd = torch.tensor(list(itertools.product([NAN, INF, -INF, 0, 9], repeat=4)))
    odd = odd[~odd.isfinite().all(1)]
    boxes = torch.cat([torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]]), odd])
    scores = torch.linspace(1, 0.5, len(boxes))
    dets, keep = soft_nms(boxes, scores, 0.5, 0.5, 0.01, method)
    assert keep[0] == 0 and not dets[:, 4].isnan().any()
    second = dets[keep == 1, 4]
    expected = {'naive': [], 'linear': [], 'gaussian': [scores[1] * math.exp(-2)]}
    torch.testing.assert_close(second, second.new_tensor(expected[method]))
    scores[::2], scores[1::4] = NAN, INF
    dets, keep = soft_nms(boxes, scores, 0.5, 0.5, 0.01, method)
    assert len(keep) and (keep % 2 == 1).all()


def test_boxes_without_an_area_do_not_overlap():
    boxes = torch.tensor([3.0, 1, 3, 1]).repeat(3, 1)
    scores = torch.tensor([0.5, 0.9, 0.7])
    for method in METHODS:
        dets, keep = soft_nms(boxes, scores, method=method)
        assert keep.tolist() == [1, 2, 0]
        torch.testing.assert_close(dets[:, 4], scores[keep])


def test_inputs_are_not_changed():
    boxes, scores = make_boxes(30, False, 3)
    copies = boxes.clone(), scores.clone()
    soft_nms(boxes, scores)
    assert torch.equal(boxes, copies[0]) and torch.equal(scores, copies[1])


class Model(torch.nn.Module):
    def forward(self, boxes, scores):
        return soft_nms(boxes, scores, method='gaussian')


def test_compiled_and_exported():
    inputs = make_boxes(20, False, 0)
    expected = soft_nms(*inputs, method='gaussian')
    compiled = torch.compile(Model(), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(*inputs), expected)
    program = torch.export.export(Model(), inputs)
    torch.testing.assert_close(program.module()(*inputs), expected)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(boxes=torch.zeros(3, 5)), r'boxes must be of shape \(N, 4\)'),
        (dict(boxes=torch.zeros(3, 4).long()), 'boxes .* floating'),
        (dict(scores=torch.zeros(2)), r'scores of shape \(N,\), .* \(2,\)'),
        (dict(method='gaussian', sigma=0), 'sigma must be above 0'),
    ],
)
def test_error_names_the_argument_that_does_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        soft_nms(**(dict(boxes=torch.zeros(3, 4), scores=torch.zeros(3)) | changes))
    with pytest.raises(UserError, match='method must be 0, 1 or 2, but is 3'):
        softnms(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1, 5), 0, 1, 0, 3, 0)
