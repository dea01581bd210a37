"""Gradients of convolutions whose output has a gradient at few pixels.

An RPN's loss looks at 256 anchors of an image, so that of all the pixels of its
maps 256 at most have a gradient. The sums over the others are sums of zeros.
"""

import torch
from torch import Tensor

from .windows import gather, maps_like, pixel_rows, window_count, window_rows, within

PIECE = 2048  # pixels at a time
# Shares of a map's pixels: up to which their sums were measured to gain; and from
# which on it isn't worth to look for those without a gradient.
FEW, NEARLY_ALL = 1 / 8, 0.95


def with_gradient(grad: Tensor) -> Tensor | None:
    """At which pixels a gradient (B, C, H, W) is not zero; NaN isn't.

    Returns:
        Tensor | None: bool, (B * H * W, ); None if a sample says nearly everywhere.
    """
    some = (grad[:, :, ::8, ::8] != 0).any(1)
    if some.sum() > NEARLY_ALL * some.numel():
        return None
    # Three times as fast as (grad != 0).any(1).
    return ((grad.amax(1) != 0) | (grad.amin(1) != 0)).flatten()


def few_pixels(there: Tensor | None) -> Tensor | None:
    """The indices of :func:`with_gradient`'s pixels, None if they are too many."""
    if there is None or there.sum() > FEW * len(there):
        return None
    return there.nonzero()[:, 0]


def windows_with(there: Tensor, shape: torch.Size, step: int, side: int) -> Tensor:
    """Which of a map's windows (:func:`.windows.window_rows`) see one of the pixels."""
    rows = window_rows(shape, torch.arange(window_count(shape, step)), step, side)
    beyond = there.new_zeros(1)
    return torch.cat([there, beyond])[rows].any(1).nonzero()[:, 0]


def convolve_at(x: Tensor, weight: Tensor, bias: Tensor, pixels: Tensor) -> Tensor:
    """A convolution's output at some pixels, (N, outputs)."""
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
    """Of a convolution's input, weight and bias, from some pixels of its output.

    Args:
        x (Tensor): (B, C, H, W).
        weight (Tensor): (outputs, C, K, K), K odd. The stride is 1, and the padding
            such that the output is of the input's size.
        grad (Tensor): Of the output at the pixels, (N, outputs).
        pixels (Tensor): Which, of B * H * W.
        needed (tuple[bool, ...]): Which of the three.

    Returns:
        tuple[Tensor | None, ...]: Like ``x``, but channels-last; like ``weight``;
        (outputs, ).
    """
    outs, channels, side, _ = weight.shape
    maps, matrix = pixel_rows(x), _matrix(weight)
    of_x = maps_like(x, channels).zero_() if needed[0] else None
    of_weight = torch.zeros_like(matrix) if needed[1] else None
    for part, some in zip(pixels.split(PIECE), grad.split(PIECE)):
        rows = window_rows(x.shape, part, 1, side)
        if of_x is not None:
            into = pixel_rows(of_x)
            into.index_add_(0, *within(into, rows, some @ matrix))
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
    """(outputs, K * K * C), in the order of windows."""
    return weight.permute(0, 2, 3, 1).flatten(1)
