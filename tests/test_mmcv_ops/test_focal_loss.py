"""Focal losses: the definition, MMDetection's form and mmcv's own modules."""

import importlib
import math
import types

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import focal_loss as ours
from mobilevig_det.mmcv_ops.focal_loss import sigmoid_focal_loss, softmax_focal_loss

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import largest_difference

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
    rows=st.integers(0, 5),
    classes=st.integers(0, 4),
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
@pytest.mark.parametrize('loss', LOSSES)
def test_gradcheck(loss, gamma):
    logits, target, weight = make_case(loss)
    logits.requires_grad_()
    for reduction in ('none', 'mean', 'sum'):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: loss(x, target, gamma, 0.3, weight, r), logits
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
def test_dtypes(loss, dtype):
    logits, target, weight = make_case(loss, rows=2000, scale=1)
    logits, weight = logits.to(dtype), weight.to(dtype)
    for reduction in ('none', 'mean'):
        results = []
        for x, w in ((logits, weight), (logits.double(), weight.double())):
            x = x.clone().requires_grad_()
            with torch.autocast('cpu', torch.bfloat16):
                out = loss(x, target, weight=w, reduction=reduction)
            (out.sum() * 2000).backward()
            assert out.dtype == x.dtype == x.grad.dtype
            results.append((out.detach(), x.grad))
        for actual, expected in zip(*results, strict=True):
            limit = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
            assert largest_difference(actual, expected) < limit


def as_mmcv(monkeypatch):
    module = importlib.import_module('mmcv.ops.focal_loss')
    names = [n for n in vars(ours) if n.endswith(('_forward', '_backward'))]
    functions = types.SimpleNamespace(**{n: getattr(ours, n) for n in names})
    monkeypatch.setattr(module, 'ext_module', functions)
    return {
        sigmoid_focal_loss: module.SigmoidFocalLoss,
        softmax_focal_loss: module.SoftmaxFocalLoss,
    }


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('loss', LOSSES)
def test_mmcv_modules_on_our_functions(loss, reduction, weighted, monkeypatch):
    module = as_mmcv(monkeypatch)[loss]
    logits, target, weight = make_case(loss, weighted=weighted)
    results = []
    for function in (
        module(2.5, 0.3, weight, reduction),
        lambda x, t: loss(x, t, 2.5, 0.3, weight, reduction),
    ):
        x = logits.clone().requires_grad_()
        out = function(x, target)
        if out.dim() != 1:  # mmcv multiplies (N, C) by (N,) there
            out.backward(torch.ones_like(out))
        results.append((out.detach(), x.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('loss', LOSSES)
def test_mmcv_modules_in_other_dtypes(loss, dtype, monkeypatch):
    module = as_mmcv(monkeypatch)[loss](2.0, 0.25, None, 'sum')
    logits, target, _ = make_case(loss, scale=1)
    x = logits.to(dtype).requires_grad_()
    module(x, target).backward()
    expected = logits.to(dtype).double().requires_grad_()
    loss(expected, target, reduction='sum').backward()
    # Of the softmax mmcv gives us what it rounded.
    assert x.grad.dtype == dtype
    assert largest_difference(x.grad, expected.grad) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize('loss', LOSSES)
def test_empty_by_mmcv(loss, monkeypatch):
    module = as_mmcv(monkeypatch)[loss](2.0, 0.25, None, 'sum')
    x = torch.zeros(0, 3, requires_grad=True)
    module(x, torch.zeros(0, dtype=torch.long)).backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize('loss', LOSSES)
def test_compiled_and_exported(loss):
    logits, target, weight = make_case(loss)

    class Model(torch.nn.Module):
        def forward(self, x, target, weight):
            return loss(x, target, 2.0, 0.25, weight, 'none')

    expected = Model()(logits, target, weight)
    compiled = torch.compile(Model(), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(logits, target, weight), expected)
    program = torch.export.export(Model(), (logits, target, weight))
    torch.testing.assert_close(program.module()(logits, target, weight), expected)


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(logits=torch.zeros(6)), r'logits must be of shape \(N, C\)'),
        (dict(logits=torch.zeros(6, 5).long()), 'logits'),
        (dict(target=torch.zeros(5).long()), r'target must be of shape \(6,\)'),
        (dict(target=torch.zeros(6)), 'target must .* int64'),
        (dict(target=torch.full((6,), 6)), 'target must be at most [45] .* has 6'),
        (dict(weight=torch.ones(4)), r'weight must be of shape \(5,\)'),
        (dict(reduction='max'), 'reduction must be one of'),
    ],
)
def test_names_the_argument_that_does_not_fit(loss, changes, message):
    logits, target, weight = make_case(loss)
    with pytest.raises(UserError, match=message):
        loss(**(dict(logits=logits, target=target, weight=weight) | changes))


def test_the_background_is_no_class_of_softmax():
    with pytest.raises(UserError, match='at most 4 for 5 classes'):
        softmax_focal_loss(torch.zeros(2, 5), torch.tensor([5, 0]))
