"""Sparse gradients of convolutions, for outputs with a gradient at few pixels.

The loss of an RPN looks at 256 anchors of an image, so that at most 256 of all the
pixels of its maps have a gradient. The sums over the others are sums of zeros. What the
pixels depend on, windows of the map, is gathered, multiplied and scattered.
"""

import torch
from torch import Tensor

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
    """Return the indices of windows that contain a pixel of the mask.

    The windows are those of :func:`window_rows`.
    """
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


def pixel_rows(x: Tensor) -> Tensor:
    """Return the pixels of maps (B, C, H, W) as rows (B * H * W, C).

    A view if the maps are channels-last, otherwise a copy.
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def empty_maps(x: Tensor, channels: int) -> Tensor:
    """Allocate channels-last maps of the size of ``x``, with other channels.

    Not a view: the result of a ``torch.autograd.Function`` may be a view only if
    nobody writes to it.
    """
    return torch.empty(
        (len(x), channels, *x.shape[2:]),
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )


def window_count(shape: torch.Size, step: int) -> int:
    """Count the windows of maps (B, C, H, W) that start every ``step`` pixels."""
    return shape[0] * -(-shape[2] // step) * -(-shape[3] // step)


def window_rows(shape: torch.Size, windows: Tensor, step: int, side: int) -> Tensor:
    """Look up the pixels of windows.

    Args:
        shape (torch.Size): Shape of the maps, (B, C, H, W).
        windows (Tensor): Indices of the windows, int64 of shape (N,), counted along
            x, then y, then images.
        step (int): Pixels from one window to the next.
        side (int): Side of a window in pixels. What exceeds ``step`` is split
            between both sides.

    Returns:
        Tensor: Indices into the rows of :func:`pixel_rows`, int64 of shape
        (N, side * side); B * H * W for pixels outside of the map.
    """
    images, _, height, width = shape
    rows, columns = -(-height // step), -(-width // step)
    offsets = torch.arange(side) - (side - step) // 2
    y = (windows // columns % rows * step)[:, None] + offsets
    x = (windows % columns * step)[:, None] + offsets
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    y += (windows // (rows * columns) * height)[:, None]
    found = y[:, :, None] * width + x[:, None]
    return found.where(inside, images * height * width).flatten(1)


def gather(pixels: Tensor, rows: Tensor) -> Tensor:
    """Read pixels (N, C) at rows (M, K) into (M, K, C), with zeros outside."""
    flat = rows.flatten()
    found = pixels.index_select(0, flat.clamp(max=len(pixels) - 1))
    outside = (flat == len(pixels)).nonzero()[:, 0]
    if len(outside):
        found.index_fill_(0, outside, 0)
    return found.view(*rows.shape, pixels.shape[1])


def drop_outside(pixels: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out rows (M, K) that are no pixels (N, C), and their values (M, K, C).

    Returns:
        tuple[Tensor, Tensor]: The rows, of shape (L,), and their values, (L, C).
    """
    rows, values = rows.flatten(), values.reshape(-1, pixels.shape[1])
    inside = (rows < len(pixels)).nonzero()[:, 0]
    if len(inside) == len(rows):
        return rows, values
    return rows[inside], values.index_select(0, inside)
