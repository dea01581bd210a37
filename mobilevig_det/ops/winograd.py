"""3x3 convolutions by Winograd's algorithm: 36 products for 4x4 outputs, not 144.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (CVPR
2016, arXiv 1509.09308), F(4x4, 3x3). The same sums in another order: cuDNN chooses
this algorithm by itself, PyTorch's convolutions on CPUs don't have it. The
interpolation points are 0, ±1/√2, ±√2 and infinity instead of 0, ±1, ±2, which
halves the rounding error.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..deprecation import moved_names
from .sparse_gradient import (
    drop_outside,
    empty_maps,
    few_pixels,
    gather,
    nonzero_pixels,
    pixel_rows,
    sparse_gradients,
    window_count,
    window_rows,
    windows_with,
)

OUT, IN = 4, 6  # sides of a tile of outputs, and of the inputs that it depends on
PIECE = 768  # tiles that are computed together, so that they stay in the cache


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Transforms of inputs (36, 36), of weights (36, 9) and of outputs (16, 36)."""
    a, b = 2**-0.5, 2**0.5
    points = torch.tensor([0, a, -a, b, -b], dtype=torch.float64)
    powers = points[:, None] ** torch.arange(OUT)
    outputs = torch.cat([powers, torch.eye(OUT, dtype=torch.float64)[-1:]]).T
    # Lagrange's polynomials: each is zero at all points but its own.
    inputs, weights = torch.zeros(IN, IN).double(), torch.zeros(IN, 3).double()
    for i, point in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        inputs[i, : IN - 1] = _coefficients(others)
        weights[i] = powers[i, :3] / (point - others).prod()
    inputs[-1], weights[-1, -1] = _coefficients(points), 1
    return tuple(  # type: ignore[return-value]
        torch.kron(m.contiguous(), m.contiguous()).float()
        for m in (inputs, weights, outputs)
    )


def _coefficients(roots: Tensor) -> Tensor:
    """Return the coefficients of the polynomial with these roots, constant first."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found


TO_INPUTS, TO_WEIGHTS, TO_OUTPUTS = _transforms()


def _pieces(shape: torch.Size, tiles: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the input pixels (N, 36) and output pixels (N, 16) of groups of tiles.

    The groups are computed together; ``tiles`` is None for all tiles.
    """
    if tiles is None:
        tiles = torch.arange(window_count(shape, OUT))
    for part in tiles.split(PIECE) if len(tiles) else ():
        yield window_rows(shape, part, OUT, IN), window_rows(shape, part, OUT, OUT)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, tiles: Tensor | None = None
) -> Tensor:
    """Convolve; outside of ``tiles``, unless that is None, the result is 0."""
    outs, channels = weight.shape[:2]
    kernel = TO_WEIGHTS @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    kernel = kernel.view(IN * IN * outs, channels, 1, 1)
    y = empty_maps(x, outs)
    if tiles is not None:
        y.zero_()
    x_pixels, y_pixels = pixel_rows(x), pixel_rows(y)
    for in_rows, out_rows in _pieces(x.shape, tiles):
        part = torch.matmul(TO_INPUTS, gather(x_pixels, in_rows))
        # 36 matrix products; as a convolution a seventh faster than as torch.bmm.
        part = part.view(1, len(in_rows), 1, -1).permute(0, 3, 1, 2)
        part = F.conv2d(part, kernel, groups=IN * IN)
        part = part.permute(0, 2, 3, 1).reshape(-1, IN * IN, outs)
        part = torch.matmul(TO_OUTPUTS, part)
        if bias is not None:
            part += bias
        y_pixels.index_copy_(0, *drop_outside(y_pixels, out_rows, part))
    return y


def _weight_gradient(x: Tensor, grad: Tensor, tiles: Tensor | None = None) -> Tensor:
    """Return the gradient of the weight, from ``tiles`` of the outputs or all."""
    channels, outs = x.shape[1], grad.shape[1]
    total = x.new_zeros(IN * IN, channels, outs)
    x_pixels, grad_pixels = pixel_rows(x), pixel_rows(grad)
    for in_rows, out_rows in _pieces(x.shape, tiles):
        part = torch.matmul(TO_INPUTS, gather(x_pixels, in_rows))
        grad_part = torch.matmul(TO_OUTPUTS.T, gather(grad_pixels, out_rows))
        total.baddbmm_(part.permute(1, 2, 0), grad_part.transpose(0, 1))
    weight = TO_WEIGHTS.T @ total.view(IN * IN, -1)
    return weight.view(3, 3, channels, outs).permute(3, 2, 0, 1).contiguous()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        mask = nonzero_pixels(grad)
        pixels = few_pixels(mask)
        if pixels is not None:
            some = pixel_rows(grad)[pixels]
            return sparse_gradients(x, weight, some, pixels, ctx.needs_input_grad)
        out_tiles = in_tiles = None
        if mask is not None:  # tiles without a gradient are left out
            out_tiles, in_tiles = (
                windows_with(mask, x.shape, OUT, side) for side in (OUT, IN)
            )
        turned = weight.flip(2, 3).transpose(0, 1)
        # That of the weight first, for a lower peak of memory.
        weight_gradient = _weight_gradient(x, grad, out_tiles) if of_weight else None
        return (
            _convolve(grad, turned, None, in_tiles) if of_x else None,
            weight_gradient,
            grad.sum((0, 2, 3)) if of_bias else None,
        )


def winograd_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.conv2d(x, weight, bias, padding=1)`` by Winograd's algorithm.

    The rounding error is about five times that of the direct sum (1e-6 of the largest
    output), and a NaN or infinity spreads over its tile of 4x4 outputs.

    Args:
        x (Tensor): float32 on a CPU, of shape (B, C, H, W), in any memory format.
        weight (Tensor): Of shape (outputs, C, 3, 3).
        bias (Tensor, optional): Of shape (outputs,).

    Returns:
        Tensor: Of shape (B, outputs, H, W), channels-last.
    """
    return _Convolution.apply(x, weight, bias)


__getattr__ = moved_names(__name__)
