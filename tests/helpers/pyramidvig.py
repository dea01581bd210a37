"""Golden data of Pyramid ViG, and its graph step in the authors' form."""

import functools
import gzip
import json

import numpy as np
import torch
import torch.nn.functional as F
from reference import DATA, golden_value

SIZES = ('ti', 's', 'm', 'b')


@functools.cache
def golden():
    return dict(np.load(DATA / 'golden_pyramidvig.npz'))


@functools.cache
def _names():
    file = DATA / 'pyramidvig_keys.json.gz'
    return json.loads(gzip.decompress(file.read_bytes()))


def authors_shapes(size):
    """Return the shapes of the classifier's weights by the authors' names, in order."""
    return _names()[size]


def encoding(channels, grid):
    """Return the position encoding of a grid, of shape (grid, grid, C)."""
    omega = 10000.0 ** -(torch.arange(channels // 4).double() / (channels / 4))
    row, column = torch.meshgrid(*[torch.arange(grid).double()] * 2, indexing='ij')
    parts = [
        f(p[..., None] * omega) for p in (column, row) for f in (torch.sin, torch.cos)
    ]
    return torch.cat(parts, -1)


def relative_positions(channels, stage, height=None, width=None):
    """Return the position term of a stage as the authors' code makes it, in float64.

    The matrix of all pairs of the training grid, resized along its flat index to that
    of pixels and nodes; then resized in its four axes to another size.
    """
    grid, ratio = 56 >> stage, (4, 2, 1, 1)[stage]
    e = encoding(channels, grid).flatten(0, 1)
    matrix = (e @ e.T * (-2 / channels))[None, None]
    if ratio > 1:
        size = grid**2, grid**2 // ratio**2
        matrix = F.interpolate(matrix, size, mode='bicubic')
    if height is None:
        return matrix[0]
    side = grid // ratio
    maps = matrix.view(grid**2, 1, side, side)
    maps = F.interpolate(maps, (height // ratio, width // ratio), mode='bicubic')
    nodes = maps[0].numel()
    maps = maps.view(grid, grid, nodes).permute(2, 0, 1)[:, None]
    maps = F.interpolate(maps, (height, width), mode='bicubic')
    return maps.view(nodes, height * width).T[None]


def authors_knn_max(x, stage, dilation):
    """Compute the graph step as the authors' code does, with all distances at once."""
    batch, channels, height, width = x.shape
    ratio = (4, 2, 1, 1)[stage]
    y = F.avg_pool2d(x, ratio, ratio)
    position = relative_positions(channels, stage, height, width).to(x.dtype)
    x, y = (t.flatten(2) for t in (x, y))
    with torch.no_grad():
        a, b = (F.normalize(t, p=2.0, dim=1).transpose(1, 2) for t in (x, y))
        distance = a.square().sum(-1, keepdim=True) - 2 * a @ b.transpose(1, 2)
        distance = distance + b.square().sum(-1, keepdim=True).transpose(1, 2)
        distance = distance + position
        count = min(9 * dilation, y.shape[-1])
        index = torch.topk(-distance, count).indices[:, :, ::dilation]
    expanded = index.flatten(1)[:, None].expand(-1, channels, -1)
    neighbours = y.gather(2, expanded).view(batch, channels, height * width, -1)
    return (neighbours - x[..., None]).amax(-1).view(batch, channels, height, width)


@functools.cache
def golden_state_dict(size):
    """Return the golden weights under the authors' names, in float32.

    The position matrices are the authors' in float64.
    """
    weights = {}
    matrices = {}
    for key, shape in authors_shapes(size).items():
        if not key.endswith('relative_pos'):
            weights[key] = golden_value(key, shape)
            continue
        stage = {3136: 0, 784: 1, 196: 2, 49: 3}[shape[1]]
        if stage not in matrices:
            fc1 = authors_shapes(size)[key.replace('relative_pos', 'fc1.0.weight')]
            matrices[stage] = relative_positions(fc1[0], stage)
        weights[key] = matrices[stage]
    return weights
