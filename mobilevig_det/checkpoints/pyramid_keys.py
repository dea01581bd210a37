"""Map the weight names of Pyramid ViG between the authors' layout and ours.

=================================  ================================================
authors                            here
=================================  ================================================
``pos_embed``                      ``stem.pos_embed``
``stem.convs.{0,1,3,4,6,7}``       ``stem.{0,1,2}.{conv,norm}``
``backbone.n.conv.{0,1}``          ``downsamples.s.{conv,norm}``
``backbone.n.0.{fc1,fc2}.{0,1}``   ``stages.s.b.grapher.{fc1,fc2}.{conv,norm}``
``backbone.n.0.graph_conv.…``      ``stages.s.b.grapher.graph_conv.{conv,norm}``
``backbone.n.1.{fc1,fc2}.{0,1}``   ``stages.s.b.ffn.{fc1,fc2}.{conv,norm}``
``backbone.n.0.relative_pos``      none (computed)
=================================  ================================================

``n`` counts the blocks of all stages and the downsampling convolutions between them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from ..ops.knn_graph import TRAINING_GRID, position_tables
from .sibling_keys import CONV_NORM

T = TypeVar('T')

TOLERANCE = 1e-5
_LAYERS = {
    '0.fc1': 'grapher.fc1',
    '0.graph_conv.gconv.nn': 'grapher.graph_conv',
    '0.fc2': 'grapher.fc2',
    '1.fc1': 'ffn.fc1',
    '1.fc2': 'ffn.fc2',
}
_FIRST = '0.fc1.0.weight'  # first weight of a block


def is_pyramid(keys: Iterable[str]) -> bool:
    """Return whether the keys, in either layout, belong to Pyramid ViG."""
    return any(key.startswith('stem.convs.') or key == 'stem.pos_embed' for key in keys)


def _numbers(pattern: str, keys: Iterable[str]) -> list[int]:
    return sorted({int(found[1]) for key in keys if (found := re.match(pattern, key))})


def _places(keys: Iterable[str]) -> dict[int, tuple[int, int]]:
    """Map the authors' index of each block to its stage and its index in the stage."""
    keys = list(keys)
    downsamples = _numbers(r'backbone\.([0-9]{1,4})\.conv\.', keys)
    places: dict[int, tuple[int, int]] = {}
    counts: dict[int, int] = {}
    for n in _numbers(r'backbone\.([0-9]{1,4})\.[01]\.', keys):
        stage = sum(i < n for i in downsamples)
        places[n] = stage, counts.setdefault(stage, 0)
        counts[stage] += 1
    return places


def pyramid_modules(state_dict: Mapping[str, Any], layout: str) -> dict[str, str]:
    """Map the authors' names of the modules in a state dict to ours.

    Args:
        state_dict (Mapping): Weights under the keys of the layout.
        layout (str): 'authors' or 'mobilevig_det'.

    Returns:
        dict[str, str]: Our name of each module by the authors' name.
    """
    modules = {'pos_embed': 'stem.pos_embed'}
    for i in range(3):
        for a, b in CONV_NORM.items():
            modules[f'stem.convs.{3 * i + int(a)}'] = f'stem.{i}.{b}'
    if layout == 'authors':
        places = _places(state_dict)
        downsamples = _numbers(r'backbone\.([0-9]{1,4})\.conv\.', state_dict)
    else:
        places, downsamples, n = {}, [], 0
        for stage in range(4):
            blocks = _numbers(rf'stages\.{stage}\.([0-9]{{1,4}})\.', state_dict)
            for block in blocks:
                places[n + block] = stage, block
            n += max(blocks, default=-1) + 1
            downsamples.append(n)
            n += 1
        del downsamples[3:]
    for stage, n in enumerate(downsamples):
        for a, b in CONV_NORM.items():
            modules[f'backbone.{n}.conv.{a}'] = f'downsamples.{stage}.{b}'
    for n, (stage, block) in places.items():
        for theirs, ours in _LAYERS.items():
            for a, b in CONV_NORM.items():
                modules[f'backbone.{n}.{theirs}.{a}'] = (
                    f'stages.{stage}.{block}.{ours}.{b}'
                )
    return modules


def _relative_positions(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Compute the position matrices that the authors' files contain.

    Args:
        weights (Mapping): Weights under the authors' keys.

    Returns:
        dict[str, Tensor]: float64 matrices of shape (1, pixels, nodes), by key.
    """
    found = {}
    for n, (stage, _) in _places(weights).items():
        weight = weights.get(f'backbone.{n}.{_FIRST}')
        if not isinstance(weight, Tensor) or weight.dim() != 4 or stage > 3:
            continue
        channels, side = len(weight), TRAINING_GRID >> stage
        if channels and not channels % 4:
            rows, columns = map(
                torch.from_numpy, position_tables(channels, stage, side, side)
            )
            matrix = (rows[:, None] + columns).flatten(0, 1)[None]
            found[f'backbone.{n}.0.relative_pos'] = matrix
    return found


def _below(state_dict: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


def without_positions(state_dict: Mapping[str, T], prefix: str = '') -> dict[str, T]:
    """Drop the fixed position matrices of a Pyramid ViG in the authors' layout.

    Other weights are returned unchanged.

    Args:
        state_dict (Mapping): Weights under the authors' keys.
        prefix (str): Prefix of the backbone's keys. Defaults to ''.

    Returns:
        dict[str, Any]: The weights without the matrices.

    Raises:
        UserError: If a matrix differs from the computed one.
    """
    weights = dict(state_dict)
    inner = _below(weights, prefix)
    if not is_pyramid(inner):
        return weights
    for key, expected in _relative_positions(inner).items():
        value = inner.get(key)
        if value is None:
            continue
        del weights[prefix + key]
        shape = tuple(getattr(value, 'shape', ()))
        if not isinstance(value, Tensor) or shape != expected.shape:
            difference = f'it has the shape {shape} instead of {tuple(expected.shape)}'
        elif value.is_meta:
            continue
        else:
            error = float((value.cpu().double() - expected).abs().max())
            if error <= max(TOLERANCE, torch.finfo(value.dtype).eps):
                continue
            difference = f'it differs by {error:.2g} from the one computed'
        raise UserError(
            f'{prefix}{key} is not the position matrix of Pyramid ViG: {difference}. '
            'The file belongs to another model, or was changed.'
        )
    return weights


def with_positions(state_dict: Mapping[str, T], prefix: str = '') -> dict[str, Any]:
    """Add the fixed position matrices, the inverse of :func:`without_positions`.

    Args:
        state_dict (Mapping): Weights under the authors' keys.
        prefix (str): Prefix of the backbone's keys. Defaults to ''.

    Returns:
        dict[str, Any]: The weights, with each matrix before the weights of its block.
    """
    inner = _below(state_dict, prefix)
    if not is_pyramid(inner):
        return dict(state_dict)
    matrices = _relative_positions(inner)
    weights: dict[str, Any] = {}
    for key, value in state_dict.items():
        if key.startswith(prefix) and key.endswith(_FIRST):
            name = key[len(prefix) : -len(_FIRST)] + '0.relative_pos'
            if name in matrices and isinstance(value, Tensor):
                weights[prefix + name] = matrices[name].to(value)
        weights[key] = value
    return weights
