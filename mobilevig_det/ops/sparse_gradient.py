"""Gradients of convolutions whose output has a gradient at few pixels.

An RPN's loss looks at 256 anchors of an image, so that of all the pixels of its
maps 256 at most have a gradient. The sums over the others are sums of zeros.
"""

import torch
from torch import Tensor

from .windows import gather, maps_like, pixel_rows, window_rows, within

# Pixels that are computed together, and the share of a map's pixels up to which
# this was measured to gain.
PIECE = 2048
MOST = 1 / 8


def few_pixels(grad: Tensor) -> Tensor | None:
    """Which pixels of (B, C, H, W) have a gradient that is not zero (NaN isn't).

    Returns:
        Tensor | None: Of B * H * W, ascending; None if they are too many.
    """
    # Of dense gradients a few tell.
    some = grad[:, :, ::8, ::8]
    if ((some != 0).any(1).float().mean() > 0.5).item():
        return None
    # Six times as fast as (grad != 0).any(1), and NaN stays one.
    found = (grad.amax(1) != 0) | (grad.amin(1) != 0)
    found = found.flatten().nonzero()[:, 0]
    return found if len(found) <= MOST * grad[:, 0].numel() else None


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
        grad (Tensor): Of the output, (B, outputs, H, W).
        pixels (Tensor): Where it counts, of B * H * W.
        needed (tuple[bool, ...]): Which of the three.

    Returns:
        tuple[Tensor | None, ...]: Like ``x``, but channels-last; like ``weight``;
        (outputs, ).
    """
    outs, channels, side, _ = weight.shape
    maps, grads = pixel_rows(x), pixel_rows(grad)
    matrix = weight.permute(0, 2, 3, 1).reshape(outs, -1)
    of_x = maps_like(x, channels).zero_() if needed[0] else None
    of_weight = torch.zeros_like(matrix) if needed[1] else None
    for part in pixels.split(PIECE):
        rows, some = window_rows(x.shape, part, 1, side), grads[part]
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
        grads[pixels].sum(0) if needed[2] else None,
    )
