"""Sparse gradients of convolutions, compared with dense ones in float64."""

from mobilevig_det.ops.sparse_gradient import (
    few_pixels,
    nonzero_pixels,
    pixel_rows,
    sparse_gradients,
    windows_with,
)
from mobilevig_det.ops.winograd import winograd_conv3x3

import pytest
import torch
import torch.nn.functional as F

# Batch, height, width.
SIZES = [(1, 1, 1), (1, 9, 13), (2, 16, 12), (2, 7, 33)]
PIXELS = ['none', 'one', 'corners', 'tenth', 'half', 'all']


def mask(size, pixels):
    batch, height, width = size
    there = torch.zeros(size, dtype=torch.bool)
    if pixels == 'one':
        there[-1, height // 2, width // 2] = True
    elif pixels == 'corners':
        there[0, :: max(height - 1, 1), :: max(width - 1, 1)] = True
    elif pixels != 'none':
        share = {'tenth': 0.1, 'half': 0.5, 'all': 1}[pixels]
        there = torch.rand(size) < share
    return there


def close(found, wanted):
    for a, b in zip(found, wanted):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 2e-5 * max(b.abs().max(), 1)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('pixels', PIXELS)
@pytest.mark.parametrize('last', [False, True])
def test_sparse_and_winograd_gradients_match_dense_ones(size, pixels, last):
    torch.manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(size[0], 4, *size[1:]).contiguous(memory_format=form)
    grad = torch.randn(size[0], 5, *size[1:]) * mask(size, pixels)[:, None]
    grad = grad.contiguous(memory_format=form)
    for side in (1, 3):
        w = torch.randn(5, 4, side, side)
        inputs = [t.double().requires_grad_() for t in (x, w, torch.zeros(5))]
        out = F.conv2d(*inputs, padding=side // 2)
        wanted = torch.autograd.grad(out, inputs, grad.double())
        at = (grad != 0).any(1).flatten().nonzero()[:, 0]
        close(sparse_gradients(x, w, pixel_rows(grad)[at], at), wanted)
    inputs = [t.float().detach().requires_grad_() for t in inputs]
    close(torch.autograd.grad(winograd_conv3x3(*inputs), inputs, grad), wanted)


def test_pixels_with_a_gradient_are_found():
    grad = torch.zeros(2, 3, 20, 20)
    grad[0, 1, 2, 3], grad[1, 2, 19, 19] = float('nan'), -1e-30
    grad[1, 0, 0, 0] = float('inf')
    there = nonzero_pixels(grad)
    assert there.nonzero().flatten().tolist() == [43, 400, 799]
    assert few_pixels(there).tolist() == [43, 400, 799]
    assert few_pixels(torch.ones(8, dtype=torch.bool)) is None
    assert nonzero_pixels(torch.ones(2, 3, 20, 20)) is None
    assert windows_with(there, grad.shape, 4, 4).tolist() == [0, 25, 49]
    assert windows_with(there, grad.shape, 4, 6).tolist() == [0, 1, 25, 49]


def test_infinite_inputs_without_gradient_are_left_out():
    """Dense gradients are NaN there: infinity times zero."""
    x, w = torch.ones(1, 2, 16, 16), torch.randn(3, 2, 3, 3)
    x[..., 12, 12] = float('inf')
    at = torch.tensor([17])
    found = sparse_gradients(x, w, torch.ones(1, 3), at)
    assert all(f.isfinite().all() for f in found)
    found = sparse_gradients(x, w, torch.full((1, 3), float('nan')), at)
    assert found[0][..., :3, :3].isnan().all() and found[0].isnan().sum() == 2 * 9
    assert found[1].isnan().all() and found[2].isnan().all()
