"""The graph step of Pyramid ViG: k nearest neighbours by features and position.

Source: Vision GNN (NeurIPS 2022, arXiv 2206.00272); distances, dilation and positions
are those of the reference implementation. Off its training size the position encoding
is resized like a map.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import custom_op, is_traced
from ..errors import UserError
from .links import as_pixels

NUM_NEIGHBOURS = 9
TRAINING_GRID = 56  # side of the first stage's map, for images of 224 x 224
POOLING = (4, 2, 1, 1)  # side of the windows whose means are the nodes of a stage
# Distances that are computed together: in a CPU's cache, or enough for a GPU.
CHUNK_SIZE = dict(cpu=2**20, cuda=2**24)


def _cubic(points: int, size: int) -> np.ndarray:
    """Return the matrix (size, points) of ``F.interpolate(mode='bicubic')``."""
    place = (np.arange(size) + 0.5) * (points / size) - 0.5
    first = np.floor(place)
    matrix = np.zeros((size, points))
    for offset in (-1, 0, 1, 2):
        x = np.abs(place - first - offset)
        weight = np.where(
            x <= 1, (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        )
        source = np.clip(first + offset, 0, points - 1).astype(int)
        np.add.at(matrix, (np.arange(size), source), weight)
    return matrix


def position_tables(
    channels: int, stage: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the position term of the distances, as a sum of two tables.

    The term of pixel (a, b) and node j is ``rows[a, j] + columns[b, j]``: -2 / C times
    the product of their sine and cosine encodings, one half of which depends on the
    column only and the other on the row.

    Args:
        channels (int): Channels C of the map, a multiple of 4.
        stage (int): The stage, from 0, which sets the training grid and the pooling.
        height (int): Height of the map.
        width (int): Width of the map.

    Returns:
        tuple[np.ndarray, np.ndarray]: float64 tables of shapes (height, nodes) and
        (width, nodes), whose nodes are those of the pooled map, row by row.
    """
    grid, ratio = TRAINING_GRID >> stage, POOLING[stage]
    half, quarter, side = channels // 2, channels // 4, grid // ratio
    angle = np.arange(grid)[:, None] * 10000.0 ** (-np.arange(quarter) / quarter)
    line = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    e = np.concatenate([np.tile(line, (grid, 1)), np.repeat(line, grid, 0)], 1)
    nodes = e
    if ratio > 1:
        # The reference implementation shrinks the matrix of all pairs of pixels along
        # their flat index, and its weights are trained with these places.
        p = np.arange(side**2) * ratio**2 + ratio**2 // 2
        nodes = 0.59375 * (e[p - 1] + e[p]) - 0.09375 * (e[p - 2] + e[p + 1])
    nodes = np.tensordot(
        _cubic(side, height // ratio), nodes.reshape(side, side, channels), 1
    )
    nodes = np.tensordot(_cubic(side, width // ratio), nodes, (1, 1))
    nodes = nodes.transpose(2, 1, 0).reshape(channels, -1) * (-2 / channels)
    rows, columns = (_cubic(grid, size) @ line for size in (height, width))
    return rows @ nodes[half:], columns @ nodes[:half]


def _tables(
    size: Sequence[int], stage: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the position tables of maps (C, H, W), in float32 or wider."""
    dtype = torch.promote_types(dtype, torch.float32)
    channels, height, width = map(int, size)
    rows, columns = (
        torch.tensor(table, dtype=dtype, device=device)
        for table in position_tables(channels, stage, height, width)
    )
    return rows, columns


# Of one size of images, for the blocks of the four stages.
_cached_tables = lru_cache(maxsize=4)(_tables)


def _nearest(
    pixels: Tensor, nodes: Tensor, rows: Tensor, columns: Tensor, dilation: int
) -> Tensor:
    """Return the neighbours of each pixel: each ``dilation``-th of its nearest nodes.

    Args:
        pixels (Tensor): Of shape (..., H, W, C).
        nodes (Tensor): Of shape (..., M, C).
        rows (Tensor): Position term of shape (H, M).
        columns (Tensor): Position term of shape (W, M).
        dilation (int): Step through the ranks.

    Returns:
        Tensor: Indices, int64 of shape (..., H, W, K), K = 9 if there are enough nodes.
    """
    keys = F.normalize(nodes, dim=-1)
    to_rows = rows + keys.square().sum(-1)[..., None, :]
    product = F.normalize(pixels, dim=-1).flatten(-3, -2) @ keys.mT.mul(-2)
    distance = product.unflatten(-2, pixels.shape[-3:-1])
    distance.add_(to_rows[..., None, :]).add_(columns)
    count = min((NUM_NEIGHBOURS - 1) * dilation + 1, nodes.shape[-2])
    return distance.topk(count, largest=False).indices[..., ::dilation]


def naive_knn_max(x: Tensor, nodes: Tensor, stage: int, dilation: int) -> Tensor:
    """Compute the graph step of maps (B, C, H, W) and their pooled nodes at once.

    This plain form is what exporters record.
    """
    pixels, nodes = (
        t.permute(0, 2, 3, 1).to(torch.promote_types(t.dtype, torch.float32))
        for t in (x, nodes)
    )
    nodes = nodes.flatten(1, 2)
    rows, columns = _tables(x.shape[1:], stage, x.dtype, x.device)
    index = _nearest(pixels.detach(), nodes.detach(), rows, columns, dilation)
    first = torch.arange(nodes.shape[0], device=x.device) * nodes.shape[1]
    near = nodes.flatten(0, 1)[index + first[:, None, None, None]]
    return (near.amax(-2) - pixels).permute(0, 3, 1, 2).to(x.dtype)


def _fake_search(
    x: Tensor, nodes: Tensor, stage: int, dilation: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count = min((NUM_NEIGHBOURS - 1) * dilation + 1, nodes[0, 0].numel())
    ranks = -(-count // dilation) if keep else 0
    shape = x.shape[0], *x.shape[2:], ranks
    winner = torch.empty_like(x if keep else x.new_empty(0), dtype=torch.uint8)
    return torch.empty_like(x), x.new_empty(shape, dtype=torch.int32), winner


def _chunks(x: Tensor, elements: int) -> Iterator[tuple[slice, slice]]:
    """Cut maps (B, C, H, W) into rows, or parts of them, of few enough pixels.

    Args:
        x (Tensor): The maps.
        elements (int): Elements that are computed for each pixel.
    """
    height, width = x.shape[-2:]
    size = CHUNK_SIZE['cpu' if x.device.type == 'cpu' else 'cuda']
    pixels = max(size // elements, 1)
    across, down = min(pixels, width), max(pixels // width, 1)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, top + down), slice(left, left + across)


@custom_op('knn_max', fake=_fake_search)
def _search(
    x: Tensor, nodes: Tensor, stage: int, dilation: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the graph step.

    With ``keep``, also return the neighbours of each pixel, and which of them is the
    strongest for each element, otherwise empty tensors.
    """
    out, neighbours, winner = _fake_search(x, nodes, stage, dilation, keep)
    rows, columns = _cached_tables(tuple(x.shape[1:]), stage, x.dtype, x.device)
    for i, image in enumerate(x):
        pixels, choices = as_pixels(image), as_pixels(nodes[i]).flatten(0, 1)
        for down, across in _chunks(x, len(choices)):
            here = pixels[down, across]
            index = _nearest(here, choices, rows[down], columns[across], dilation)
            near = choices.index_select(0, index.flatten())
            near = near.view(*index.shape, -1)
            if keep:
                best, rank = near.max(-2)
                neighbours[i, down, across] = index.int()
                winner[i, :, down, across] = rank.permute(2, 0, 1).byte()
            else:
                best = near.amax(-2)
            out[i, :, down, across] = (best - here).permute(2, 0, 1)
    return out, neighbours, winner


def _fake_spread(
    grad: Tensor, neighbours: Tensor, winner: Tensor, height: int, width: int
) -> Tensor:
    return grad.new_empty((*grad.shape[:2], height, width))


@custom_op('knn_max_backward', fake=_fake_spread)
def _spread(
    grad: Tensor, neighbours: Tensor, winner: Tensor, height: int, width: int
) -> Tensor:
    """Compute the gradient of the nodes: the sum over the elements that each won."""
    out = _fake_spread(grad, neighbours, winner, height, width)
    for i, image in enumerate(grad):
        pixels, won = as_pixels(image), winner[i].permute(1, 2, 0)
        total = pixels.new_zeros(height * width, pixels.shape[-1])
        for down, across in _chunks(grad, pixels.shape[-1]):
            index = neighbours[i, down, across].long()
            node = index.gather(-1, won[down, across].long()).flatten(0, 1)
            total.scatter_add_(0, node, pixels[down, across].flatten(0, 1))
        out[i] = total.view(height, width, -1).permute(2, 0, 1)
    return out


class _KNNMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, nodes: Tensor, stage: int, dilation: int) -> Tensor:
        out, *kept = _search(x, nodes, stage, dilation, True)
        ctx.save_for_backward(*kept)
        ctx.size = nodes.shape[-2:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return -grad, _spread(grad, *ctx.saved_tensors, *ctx.size), None, None


def knn_max(x: Tensor, stage: int, dilation: int) -> Tensor:
    """Compute the largest difference of the nearest nodes from a pixel.

    ``x_j = max(y - x)`` over nine nodes y: those of ranks 0, d, 2d, ... 8d by squared
    distance of the normalized features plus :func:`position_tables`. Nodes are the
    pixels, in stages 0 and 1 means of 4 x 4 and 2 x 2 pixels. It may be below 0. If
    there are no more than 8d nodes, there are fewer neighbours.

    Equal to that definition, except where distances differ by rounding only, in which
    case another node may be the neighbour. Distances are computed in float32 or wider,
    for a part of the map at a time, and have no gradient. For the backward one byte per
    element and nine indices per pixel are stored. It can't be differentiated again.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format; C is a
            multiple of 4, and H and W are at least 4 in stage 0 and 2 in stage 1.
        stage (int): The stage of Pyramid ViG, from 0 to 3.
        dilation (int): The step d through the ranks.

    Returns:
        Tensor: x_j, of the same shape, dtype and memory format as ``x``.

    Raises:
        UserError: If an exporter records images of any size.
    """
    ratio = POOLING[stage]
    # A view, because torch.compile refuses the same tensor twice.
    nodes = F.avg_pool2d(x, ratio) if ratio > 1 else x.view_as(x)
    if is_traced():
        if any(isinstance(side, torch.SymInt) for side in x.shape[-2:]):
            raise UserError(
                'The position encoding of Pyramid ViG depends on the size of the '
                'images: it is exported for one size. Leave height and width out of '
                'the dynamic shapes; with tools/export.py, give --part backbone and '
                '--size H W.'
            )
        return naive_knn_max(x, nodes, stage, dilation)
    if x.requires_grad and torch.is_grad_enabled():
        return _KNNMax.apply(x, nodes, stage, dilation)
    return _search(x, nodes, stage, dilation, False)[0]
