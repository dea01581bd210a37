"""Windows of maps as rows of channels: what is gathered, computed, put back."""

import torch
from torch import Tensor


def pixel_rows(x: Tensor) -> Tensor:
    """Pixels of maps (B, C, H, W), (B * H * W, C): a view where those are
    channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def maps_like(x: Tensor, channels: int) -> Tensor:
    """Empty channels-last maps of as many pixels. No view, as what a
    ``torch.autograd.Function`` returns may be one only if nobody writes to it."""
    return torch.empty(
        (len(x), channels, *x.shape[2:]),
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )


def window_count(shape: torch.Size, step: int) -> int:
    return shape[0] * -(-shape[2] // step) * -(-shape[3] // step)


def window_rows(shape: torch.Size, windows: Tensor, step: int, side: int) -> Tensor:
    """The pixels that some windows see.

    Args:
        shape (torch.Size): Of the maps, (B, C, H, W).
        windows (Tensor): Which, (N, ), counted along x, y and images.
        step (int): From one window to the next.
        side (int): Of a window; what it has more than ``step`` lies around that.

    Returns:
        Tensor: Rows of :func:`pixel_rows`, (N, side * side); of pixels beyond the
        border it is B * H * W.
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
    """Pixels (N, C) at rows (M, K), (M, K, C); zeros for those beyond the border."""
    flat = rows.flatten()
    found = pixels.index_select(0, flat.clamp(max=len(pixels) - 1))
    outside = (flat == len(pixels)).nonzero()[:, 0]
    if len(outside):
        found.index_fill_(0, outside, 0)
    return found.view(*rows.shape, pixels.shape[1])


def within(pixels: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M, K) of pixels (N, C) that are none beyond the border, and the values
    for them, of (M, K, C)."""
    rows, values = rows.flatten(), values.reshape(-1, pixels.shape[1])
    inside = (rows < len(pixels)).nonzero()[:, 0]
    if len(inside) == len(rows):
        return rows, values
    return rows[inside], values.index_select(0, inside)
