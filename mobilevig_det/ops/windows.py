"""Windows of feature maps as rows of pixels: to gather, compute and scatter."""

import torch
from torch import Tensor


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
