"""Bilinear interpolation of a feature map as a weighted sum of table rows.

Deformable convolution computes ``out[n] = sum over j of weight[n, j] * rows[index[n,
j]]``, with the four pixels around each position. The rows of the table are pixels, and
row 0 is zero: it stands for everything outside of the map.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import is_traced_or_compiled

# Elements that are computed together: on a CPU they stay in its cache.
CPU_PART_SIZE = 2**19
PART_SIZE = 2**26


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the four pixels around each position, and their bilinear weights.

    A position at -1 or less, at the height (width) or more, or that isn't finite is
    outside of the map and has no gradient.

    Args:
        y (Tensor): Positions in pixels, of any shape (...).
        x (Tensor): Positions in pixels, of the same shape.
        height (int): Height of the map, in pixels.
        width (int): Width of the map, in pixels.

    Returns:
        tuple[Tensor, Tensor]: ``row * width + column`` of each pixel, or -1 outside of
        the map, int64 of shape (..., 4), and the weights, of the same shape.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0.0), torch.where(inside, x, 0.0)
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    up, back = 1 - down, 1 - right
    weight = torch.stack([up * back, up * right, down * back, down * right], -1)
    top, left = top.long(), left.long()
    rows = inside & (top >= 0), inside & (top < height - 1)
    columns = left >= 0, left < width - 1
    first = top * width + left
    index = [
        torch.where(rows[i] & columns[j], first + (i * width + j), -1)
        for i in range(2)
        for j in range(2)
    ]
    return torch.stack(index, -1), weight


def sum_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum rows (R, C) at indices (n, j), weighted by (n, j), to (n, C)."""
    if is_traced_or_compiled() or not index.numel():
        return (rows[index] * weight[..., None]).sum(1)
    return F.embedding_bag(index, rows, mode='sum', per_sample_weights=weight)


def add_rows(rows: Tensor, index: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Add the gradient of :func:`sum_rows` with respect to its rows to ``rows``."""
    grad = weight[..., None] * grad[:, None]
    rows.index_add_(0, index.flatten(), grad.flatten(0, 1))


def parts(count: int, size: int, device: torch.device) -> Iterator[slice]:
    """Split ``count`` items of ``size`` elements each into parts of bounded size."""
    limit = CPU_PART_SIZE if device.type == 'cpu' else PART_SIZE
    step = max(limit // max(size, 1), 1)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
