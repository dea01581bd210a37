"""Weighted sums of the rows of a table: a map, read between its pixels.

Deformable convolution and deformable attention both are ``out[n] = sum over j
of weight[n, j] * rows[index[n, j]]``, with four pixels around each position.
Row 0 of a table is zero: it stands for all that is outside of the map.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import is_traced

# Elements that are worked on at a time: on a CPU they stay in its cache.
CPU_PART_SIZE = 2**19
PART_SIZE = 2**26


def corners(
    y: Tensor, x: Tensor, height: int | Tensor, width: int | Tensor
) -> tuple[Tensor, Tensor]:
    """The four pixels around each position, and their bilinear weights.

    A position at -1 or less, at the height (width) or more, or that isn't
    finite is outside of the map, and has no gradient.

    Args:
        y (Tensor): Positions in pixels, of any shape (...).
        x (Tensor): Likewise.
        height (int or Tensor): Of the map, in pixels; may be broadcast.
        width (int or Tensor): Likewise.

    Returns:
        tuple: ``row * width + column`` of each pixel or -1 where it is
        outside, int64 of shape (..., 4), and the weights, of the same shape.
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


def make_table(rows: Tensor) -> Tensor:
    """Rows of shape (n, C), behind one of zeros: (1 + n, C)."""
    return F.pad(rows, (0, 0, 1, 0))


def sum_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: (R, C) at (n, j), weighted by (n, j), to (n, C)."""
    if wants_plain() or not index.numel():
        return (rows[index] * weight[..., None]).sum(1)
    return F.embedding_bag(index, rows, mode='sum', per_sample_weights=weight)


def add_rows(rows: Tensor, index: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Add the gradient of the rows, for that of :func:`sum_rows`, to ``rows``."""
    grad = weight[..., None] * grad[:, None]
    rows.index_add_(0, index.flatten(), grad.flatten(0, 1))


def parts(count: int, size: int, device: torch.device) -> Iterator[slice]:
    """Split ``count`` things of ``size`` elements each into bounded pieces."""
    limit = CPU_PART_SIZE if device.type == 'cpu' else PART_SIZE
    step = max(limit // max(size, 1), 1)
    for first in range(0, count, step):
        yield slice(first, first + step)


def wide(dtype: torch.dtype) -> torch.dtype:
    """What to compute in: float32, or float64 if that is given."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wants_plain() -> bool:
    """Whether a compiler or exporter is looking: one expression, no pieces."""
    compiling = getattr(torch.compiler, 'is_compiling', bool)  # torch >= 2.2
    return is_traced() or compiling()
