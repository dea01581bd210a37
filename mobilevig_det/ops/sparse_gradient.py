"""Sparse gradients of convolutions, for outputs with a gradient at few pixels.

The loss of an RPN looks at 256 anchors of an image, so that at most 256 of all the
pixels of its maps have a gradient. The sums over the others are sums of zeros.
"""

import torch
from torch import Tensor

from .windows import (
    drop_outside,
    empty_maps,
    gather,
    pixel_rows,
    window_count,
    window_rows,
)

PIECE = 2048  # pixels that are computed together
# Shares of a map's pixels, measured: up to FEW_SHARE sparse sums are faster; from
# DENSE_SHARE on the search for pixels without a gradient isn't worth its time.
FEW_SHARE, DENSE_SHARE = 1 / 8, 0.95


def nonzero_pixels(grad: Tensor) -> Tensor | None:
    """Find the pixels of a gradient (B, C, H, W) that aren't zero; NaN isn't zero.

    Returns:
        Tensor | None: bool of shape (B * H * W,); None if a sample of the pixels
        says that nearly all are.
    """
    some = (grad[:, :, ::8, ::8] != 0).any(1)
    if some.sum() > DENSE_SHARE * some.numel():
        return None
    # Three times as fast as (grad != 0).any(1).
    return ((grad.amax(1) != 0) | (grad.amin(1) != 0)).flatten()


def few_pixels(mask: Tensor | None) -> Tensor | None:
    """Return the indices of :func:`nonzero_pixels`, or None if they are too many."""
    if mask is None or mask.sum() > FEW_SHARE * len(mask):
        return None
    return mask.nonzero()[:, 0]


def windows_with(mask: Tensor, shape: torch.Size, step: int, side: int) -> Tensor:
    """Return the indices of the windows (:func:`.windows.window_rows`) of a map that
    contain a pixel of the mask."""
    rows = window_rows(shape, torch.arange(window_count(shape, step)), step, side)
    outside = mask.new_zeros(1)
    return torch.cat([mask, outside])[rows].any(1).nonzero()[:, 0]


def convolve_at(x: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor) -> Tensor:
    """Compute the output of a convolution at some pixels, of shape (N, outputs)."""
    maps, matrix = pixel_rows(x), _matrix(weight)
    return torch.cat(
        [
            torch.addmm(bias, gather(maps, rows).flatten(1), matrix.T)
            for rows in window_rows(x.shape, pixels, 1, weight.shape[2]).split(PIECE)
        ]
    )


def sparse_gradients(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    pixels: Tensor,
    needed: tuple[bool, ...] = (True, True, True),
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a convolution from some pixels of its output.

    Args:
        x (Tensor): Input, of shape (B, C, H, W).
        weight (Tensor): Of shape (outputs, C, K, K), K odd. The stride is 1, and the
            padding keeps the size of the input.
        grad (Tensor): Gradient of the output at the pixels, of shape (N, outputs).
        pixels (Tensor): Indices of the pixels, of B * H * W.
        needed (tuple[bool, ...]): Whether to compute those of the input, weight and
            bias.

    Returns:
        tuple[Tensor | None, ...]: Gradients of the input, channels-last, of the
        weight, and of the bias, of shape (outputs,); None where not needed.
    """
    outs, channels, side, _ = weight.shape
    maps, matrix = pixel_rows(x), _matrix(weight)
    of_x = empty_maps(x, channels).zero_() if needed[0] else None
    of_weight = torch.zeros_like(matrix) if needed[1] else None
    for part, some in zip(pixels.split(PIECE), grad.split(PIECE)):
        rows = window_rows(x.shape, part, 1, side)
        if of_x is not None:
            into = pixel_rows(of_x)
            into.index_add_(0, *drop_outside(into, rows, some @ matrix))
        if of_weight is not None:
            of_weight.addmm_(some.T, gather(maps, rows).flatten(1))
    if of_weight is not None:
        of_weight = of_weight.view(outs, side, side, channels).permute(0, 3, 1, 2)
    return (
        of_x,
        None if of_weight is None else of_weight.contiguous(),
        grad.sum(0) if needed[2] else None,
    )


def _matrix(weight: Tensor) -> Tensor:
    """Return the weight as (outputs, K * K * C), in the order of windows."""
    return weight.permute(0, 2, 3, 1).flatten(1)
