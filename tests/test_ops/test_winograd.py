"""Winograd convolutions, compared with direct convolutions in float64."""

from mobilevig_det.ops import winograd
from mobilevig_det.ops.winograd import winograd_conv3x3

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = [
    (1, 1, 1, 1), (2, 3, 1, 9), (3, 2, 5, 4), (1, 4, 8, 12), (0, 2, 4, 4),
    (50, 2, 14, 14), (1, 2, 130, 81),
]  # fmt: skip


def check(shape, outs, bias=True, channels_last=False):
    torch.manual_seed(0)
    x, w = torch.randn(shape), torch.randn(outs, shape[1], 3, 3)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    inputs = [x, w, torch.randn(outs)][: 2 + bias]
    inputs = [t.requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out, want = winograd_conv3x3(*inputs), F.conv2d(*exact, padding=1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(want)
    found = torch.autograd.grad(out, inputs, grad.float())
    wanted = torch.autograd.grad(want, exact, grad)
    for a, b in zip((out, *found), (want, *wanted)):
        assert a.shape == b.shape and a.dtype == torch.float32
        if a.numel():
            # Relative to the largest: a sum of many terms may itself be near zero.
            assert (a - b).abs().max() <= 2e-5 * max(b.abs().max(), 1)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_outputs_and_gradients_match_float64(shape, channels_last):
    check(shape, 3, channels_last=channels_last)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*(st.integers(1, most) for most in (3, 5, 23, 23))),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([1, 3, 640]),
)
def test_any_shape_matches_float64(shape, outs, bias, piece):
    """Also in pieces that end in the middle of an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, 'PIECE', piece)
        check(shape, outs, bias)


@pytest.mark.parametrize('sides', [(8, 8), (9, 8)])
def test_in_place_activation_of_the_output(sides):
    """mmcv's ConvModule applies ReLU in place."""
    x, w = torch.randn(1, 2, *sides), torch.randn(3, 2, 3, 3, requires_grad=True)
    winograd_conv3x3(x, w).relu_().sum().backward()
    found, w.grad = w.grad, None
    F.conv2d(x, w, padding=1).relu().sum().backward()
    assert (found - w.grad).abs().max() < 1e-4


def test_only_requested_gradients_are_computed():
    x, w = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3, requires_grad=True)
    winograd_conv3x3(x, w).sum().backward()
    assert x.grad is None and w.grad is not None


def test_rounding_error_is_bounded():
    """Five times that of the direct sum in float32, and far below that of TF32."""
    torch.manual_seed(0)
    x, w = torch.randn(1, 256, 24, 24).relu(), torch.randn(256, 256, 3, 3) / 48
    want = F.conv2d(x.double(), w.double(), padding=1)
    error = (winograd_conv3x3(x, w) - want).abs().max() / want.abs().max()
    assert error < 5e-6
