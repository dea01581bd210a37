"""Focal losses through mmcv's functions, compared with the definition and with
MMDetection's own form."""

import importlib
import math

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import focal_loss as ours

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import largest_difference

mmcv_module = importlib.import_module('mmcv.ops.focal_loss')


@pytest.fixture(autouse=True, scope='module')
def on_our_operators():
    """Let mmcv's functions call this package's operators instead of its extension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmcv_module, 'ext_module', ours)
        yield


def sigmoid_focal_loss(x, target, gamma=2.0, alpha=0.25, weight=None, reduction='mean'):
    return mmcv_module.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)


def softmax_focal_loss(x, target, gamma=2.0, alpha=0.25, weight=None, reduction='mean'):
    return mmcv_module.softmax_focal_loss(x, target, gamma, alpha, weight, reduction)


LOSSES = [sigmoid_focal_loss, softmax_focal_loss]
F64 = torch.float64


def naive_sigmoid(logits, target, gamma, alpha, weight):
    """A loop over the numbers, for logits that a double's sigmoid resolves."""
    out = torch.zeros_like(logits)
    for n, row in enumerate(logits.tolist()):
        label = int(target[n])
        for c, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            if label == c:
                loss = -alpha * (1 - p) ** gamma * math.log(p)
            else:
                loss = -(1 - alpha) * p**gamma * math.log(1 - p)
            if weight is not None and 0 <= label < len(row):
                loss *= float(weight[label])
            out[n, c] = loss
    return out


def naive_softmax(logits, target, gamma, alpha, weight):
    out = torch.zeros(len(logits), dtype=logits.dtype)
    for n, row in enumerate(logits.tolist()):
        label = int(target[n])
        if label < 0:
            continue
        p = math.exp(row[label]) / sum(map(math.exp, row))
        # The power of what rounds to a little below 0 is complex.
        out[n] = -alpha * max(1 - p, 0) ** gamma * math.log(p)
        if weight is not None:
            out[n] *= float(weight[label])
    return out


NAIVE = {sigmoid_focal_loss: naive_sigmoid, softmax_focal_loss: naive_softmax}


def make_case(loss, rows=6, classes=5, weighted=True, scale=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, dtype=F64, generator=random) * scale
    high = classes + (loss is sigmoid_focal_loss)
    target = torch.randint(-1, high, (rows,), generator=random)
    weight = torch.rand(classes, dtype=F64, generator=random) if weighted else None
    return logits, target, weight


@pytest.mark.parametrize('loss', LOSSES)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    classes=st.integers(1, 4),
    weighted=st.booleans(),
    gamma=st.sampled_from([0, 0.5, 1, 2, 3.7]),
    alpha=st.sampled_from([0, 0.25, 0.3, 1]),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(loss, gamma, alpha, **shape):
    logits, target, weight = make_case(loss, **shape)
    expected = NAIVE[loss](logits, target, gamma, alpha, weight)
    actual = loss(logits, target, gamma, alpha, weight, 'none')
    torch.testing.assert_close(actual, expected)
    total = loss(logits, target, gamma, alpha, weight, 'sum')
    torch.testing.assert_close(total, expected.sum())
    mean = loss(logits, target, gamma, alpha, weight)
    torch.testing.assert_close(mean, expected.sum() / max(len(logits), 1))


@pytest.mark.parametrize('gamma', [0, 0.5, 2.0])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('loss', LOSSES)
def test_gradcheck(loss, reduction, gamma):
    logits, target, weight = make_case(loss)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target, gamma, 0.3, weight, reduction), logits
    )


def test_equals_mmdet():
    """Also where the probability is rounded to 0 or 1."""
    losses = importlib.import_module('mmdet.models.losses.focal_loss')
    logits = torch.tensor([-150, -30, -9, -1, 0, 0.5, 8, 25, 120.0]).repeat(3, 1)
    target = torch.tensor([4, 9, 0])
    hot = torch.nn.functional.one_hot(target, 10)[:, :9]
    results = []
    for function in (
        lambda x: sigmoid_focal_loss(x, target, reduction='sum'),
        lambda x: losses.py_sigmoid_focal_loss(x, hot, reduction='sum'),
    ):
        x = logits.clone().requires_grad_()
        value = function(x)
        results.append([value.detach(), torch.autograd.grad(value, x)[0]])
    for actual, expected in zip(*results, strict=True):
        assert largest_difference(actual, expected) < 1e-5


@pytest.mark.parametrize('gamma', [0, 0.5, 1, 2.0])
@pytest.mark.parametrize('loss', LOSSES)
def test_gradients_stay_finite(loss, gamma):
    for value in (1e3, -1e3):
        logits = torch.zeros(2, 3)
        logits[:, 0] = value
        logits.requires_grad_()
        loss(logits, torch.tensor([0, 1]), gamma).backward()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('loss', LOSSES)
def test_half_types_are_computed_in_float32(loss, dtype):
    logits, target, weight = make_case(loss, rows=2000, scale=1)
    logits, weight = logits.to(dtype), weight.to(dtype)
    results = []
    for x, w in ((logits, weight), (logits.double(), weight.double())):
        x = x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16):
            out = loss(x, target, weight=w, reduction='none')
            loss(x, target, weight=w, reduction='sum').backward()
        assert out.dtype == x.dtype == x.grad.dtype
        results.append((out.detach(), x.grad))
    # The softmax that mmcv passes is rounded already.
    factor = 2 if loss is sigmoid_focal_loss else 8
    for actual, expected in zip(*results, strict=True):
        limit = 1e-5 if dtype == torch.float32 else factor * torch.finfo(dtype).eps
        assert largest_difference(actual, expected) < limit


@pytest.mark.parametrize('loss', LOSSES)
def test_no_rows(loss):
    x = torch.zeros(0, 3, requires_grad=True)
    loss(x, torch.zeros(0, dtype=torch.long), reduction='sum').backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(
    'loss, label', [(sigmoid_focal_loss, 6), (softmax_focal_loss, 5)]
)
def test_error_for_a_class_that_does_not_exist(loss, label):
    """C is the background for the sigmoid, and no class for the softmax."""
    with pytest.raises(UserError, match=f'at most {label - 1}, but has {label}'):
        loss(torch.zeros(2, 5), torch.tensor([label, 0]))
