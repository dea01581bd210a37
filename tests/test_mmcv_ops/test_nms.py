"""NMS, compared with compiled mmcv and with the greedy loop of its definition."""

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import nms as module
from mobilevig_det.mmcv_ops.mmcv_ext import nms

import naive_ops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import compiled_operator, load_cases, needs_compiled_mmcv


def test_equals_recorded_results_of_compiled_mmcv():
    cases = load_cases('mmcv_ops.npz', 'nms')
    assert len(cases) >= 25
    for name, case in cases.items():
        offset, threshold = name.split('_off')[1].split('_t')
        kept = nms(
            case['boxes'],
            case['scores'],
            iou_threshold=float(threshold),
            offset=int(offset),
        )
        assert kept.tolist() == case['keep'].tolist()


def by_score(scores):
    order = scores.sort(descending=True)[1].tolist()
    falling = [scores[i] for i in order]
    assert falling == sorted(falling, reverse=True)
    return order


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 8)] * 4, st.integers(0, 5)), max_size=30),
    st.sampled_from([-0.5, 0.0, 0.3, 0.5, 0.7, 1.0]),
    st.sampled_from([0, 1]),
)
def test_equals_the_definition(rows, threshold, offset):
    """Few coordinates and scores, so that many are equal."""
    rows = np.array(rows, np.float64).reshape(-1, 5)
    boxes, scores = torch.from_numpy(rows[:, :4]), torch.from_numpy(rows[:, 4])
    boxes[:, 2:] += boxes[:, :2]
    expected = naive_ops.nms(boxes.tolist(), by_score(scores), threshold, offset)
    assert nms(boxes, scores, threshold, offset).tolist() == expected


def crowd(number, groups=1):
    torch.manual_seed(number)
    corners = torch.rand(number, 2) * 100
    boxes = torch.cat([corners, corners + torch.rand(number, 2) * 40], 1)
    apart = torch.randint(groups, (number, 1)) * 150.0
    return boxes + apart, torch.rand(number)


@pytest.mark.parametrize('groups', [1, 5, 40])
@pytest.mark.parametrize('offset', [0, 1])
def test_more_boxes_than_a_block(groups, offset):
    """In separate groups and in one."""
    boxes, scores = crowd(900, groups)
    expected = naive_ops.nms(boxes.double().tolist(), by_score(scores), 0.5, offset)
    assert 50 < len(expected) < 890
    assert nms(boxes, scores, 0.5, offset).tolist() == expected


@needs_compiled_mmcv
@pytest.mark.parametrize('groups', [1, 5, 40])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.7])
def test_equals_compiled_mmcv(groups, offset, threshold):
    for number in (1, 100, 900):
        boxes, scores = crowd(number, groups)
        arguments = dict(iou_threshold=threshold, offset=offset)
        expected = compiled_operator('nms')(boxes, scores, **arguments)
        assert torch.equal(nms(boxes, scores, **arguments), expected)
        # On whole pixels, where many IoUs and scores are equal.
        boxes, scores = boxes.round(), (scores * 10).round()
        expected = compiled_operator('nms')(boxes, scores, **arguments)
        assert torch.equal(nms(boxes, scores, **arguments), expected)


def test_touching_groups_are_not_split():
    """With an offset, adjacent boxes overlap by a pixel."""
    number = 4 * module.BLOCK + 1
    left = torch.arange(number) * 10.0
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 9], 1)
    groups = module._apart(boxes.t(), 0)
    assert len(groups) == 1
    groups = module._apart((boxes - torch.tensor([0, 0, 0.5, 0])).t(), 0)
    assert sorted(torch.cat(groups).tolist()) == list(range(number))
    assert len(groups) == 1 or len(groups[0]) >= 4 * module.BLOCK
    boxes[:, 2] -= 1
    assert len(module._apart(boxes.t(), 1)) == 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_compared_in_float32(dtype):
    boxes, scores = crowd(300)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    expected = nms(boxes.float(), scores.float(), 0.5, 0)
    assert torch.equal(nms(boxes, scores, 0.5, 0), expected)


def test_boxes_that_are_not_finite():
    """No crash and no endless loop; finite boxes are treated as usual."""
    boxes = torch.tensor([
        [0, 0, 10, 10], [1, 1, 10, 10], [np.nan, 0, 1, 1], [np.inf, 0, np.inf, 5],
        [-np.inf, -np.inf, np.inf, np.inf],
    ])  # fmt: skip
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, np.nan])
    kept = nms(boxes, scores, 0.5, 0).tolist()
    assert 0 in kept and 1 not in kept and 2 in kept
    many, their_scores = crowd(900)
    many[::7, 1] = np.nan
    kept = nms(many, their_scores, 0.5, 0)
    assert set(range(0, 900, 7)) <= set(kept.tolist())


@pytest.mark.parametrize('number', [0, 1])
def test_zero_and_one_box(number):
    kept = nms(torch.zeros(number, 4), torch.zeros(number), 0.5, 0)
    assert kept.dtype == torch.int64 and kept.tolist() == list(range(number))


def test_errors_for_shapes_that_do_not_fit():
    for boxes, scores in (((3, 5), (3,)), ((3, 4), (2,)), ((4,), (4,))):
        with pytest.raises(UserError, match=r'boxes must be of shape \(N, 4\)'):
            nms(torch.zeros(boxes), torch.zeros(scores), 0.5, 0)


def test_compilers_see_one_operator():
    boxes, scores = crowd(50)

    class Keep(torch.nn.Module):
        def forward(self, boxes, scores):
            kept = torch.ops.mobilevig_det.nms(boxes, scores, 0.5, 0)
            return boxes[kept]

    expected = Keep()(boxes, scores)
    number = torch.export.Dim('number', min=2, max=999)
    exported = torch.export.export(
        Keep(), (boxes, scores), dynamic_shapes=({0: number}, {0: number})
    )
    assert torch.equal(exported.module()(boxes, scores), expected)
    compiled = torch.compile(Keep(), fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(boxes, scores), expected)
