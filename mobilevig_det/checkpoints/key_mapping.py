"""Map the names of a backbone's weights between the authors' layout and ours.

========================================  ==================================
authors (github.com/SLDGroup/MobileViG)   here
========================================  ==================================
``stem.stem.{0,1,3,4}``                   ``stem.{0,1}.{conv,norm}``
``local_backbone.i.mlp.{fc1,norm1}``      ``stages.s.b.expand.{conv,norm}``
``local_backbone.i.mlp.{mid,mid_norm}``   ``stages.s.b.depthwise.…``
``local_backbone.i.mlp.{fc2,norm2}``      ``stages.s.b.project.…``
``local_backbone.i.layer_scale_2``        ``stages.s.b.layer_scale``
``local_backbone.i.conv.{0,1}``           ``downsamples.s.{conv,norm}``
``backbone.b.0.…``                        ``stages.3.b.grapher.…``
``backbone.b.1.…``                        ``stages.3.b.ffn.…``
``prediction.…, head.…, dist_head.…``     the same names (classifier)
========================================  ==================================

``i`` counts the blocks of the first three stages (s = 0, 1, 2) and the downsampling
convolutions, so its meaning depends on the depths, which are read from the keys. The
names of MobileViG's siblings are in :mod:`.sibling_keys`, those of Pyramid ViG in
:mod:`.pyramid_keys`. The keys of a file show which of them apply.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import UserError
from .pyramid_keys import is_pyramid, pyramid_modules, with_positions, without_positions
from .sibling_keys import CONV_NORM, STEM, is_siblings, sibling_modules

T = TypeVar('T')

CLASSIFIER_PREFIXES = ('prediction.', 'head.', 'dist_head.')

# Longer names come first, because 'mid' is a prefix of 'mid_norm'.
_MBCONV = {
    'mlp.fc1': 'expand.conv',
    'mlp.norm1': 'expand.norm',
    'mlp.mid_norm': 'depthwise.norm',
    'mlp.mid': 'depthwise.conv',
    'mlp.fc2': 'project.conv',
    'mlp.norm2': 'project.norm',
    'layer_scale_2': 'layer_scale',
}
_SVGA = {
    f'{part}.{theirs}.{i}': f'{name}.{ours}.{CONV_NORM[i]}'
    for part, name, layers in (
        ('0', 'grapher', {'fc1': 'fc1', 'graph_conv.nn': 'graph_conv', 'fc2': 'fc2'}),
        ('1', 'ffn', {'fc1': 'fc1', 'fc2': 'fc2'}),
    )
    for theirs, ours in layers.items()
    for i in '01'
}


LAYOUTS = ('authors', 'mobilevig_det')

# Keys that identify a layout: every backbone has one of them, and no other model does.
_ANCHORS = {
    'authors': (
        'local_backbone.0.layer_scale_2',
        'backbone.0.0.dws.pw1.weight',
        'stem.convs.0.weight',
    ),
    'mobilevig_det': ('downsamples.0.conv.weight',),
}


def is_authors_layout(keys: Iterable[str]) -> bool:
    """Return whether keys (without ``backbone.``) are in the authors' layout."""
    return any(
        key.startswith(('local_backbone.', 'stem.stem.', 'stem.convs.')) for key in keys
    )


def backbone_of_classifier(state_dict: dict[str, T]) -> dict[str, T]:
    """Extract the backbone's weights of a classifier that this package trained.

    Args:
        state_dict (dict): Weights by name.

    Returns:
        dict: The backbone's weights without the prefix ``backbone.``; weights of other
        models are returned unchanged.
    """
    if not any(key.startswith('head.prediction.') for key in state_dict):
        return state_dict
    prefix = 'backbone.'
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


def with_parts(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Prefix the keys of the authors' ImageNet files with ``backbone.`` or ``head.``.

    Args:
        state_dict (Mapping): Weights of a backbone and its classifier.

    Returns:
        dict: The same values under the names of :class:`.ImageClassifier`.
    """
    return {
        ('head.' if key.startswith(CLASSIFIER_PREFIXES) else 'backbone.') + key: value
        for key, value in state_dict.items()
    }


def _numbers(pattern: str, keys: Iterable[str]) -> set[int]:
    """Collect the numbers that a pattern finds at the beginning of the keys."""
    return {int(found[1]) for key in keys if (found := re.match(pattern, key))}


def _modules(state_dict: Mapping[str, Any], layout: str) -> dict[str, str]:
    """Map the authors' names of the modules in a state dict to ours.

    Args:
        state_dict (Mapping): Weights under the keys of the layout.
        layout (str): 'authors' or 'mobilevig_det'.
    """
    if is_pyramid(state_dict):
        return pyramid_modules(state_dict, layout)
    if is_siblings(state_dict):
        return sibling_modules(state_dict, layout)
    if layout == 'authors':
        indices = _numbers(r'local_backbone\.([0-9]{1,4})\.', state_dict)
        downsamples = _numbers(r'local_backbone\.([0-9]{1,4})\.conv\.', state_dict)
        last_stage = _numbers(r'backbone\.([0-9]{1,4})\.', state_dict)
    else:
        indices, downsamples = set(), set()
        for stage in range(3):
            blocks = _numbers(rf'stages\.{stage}\.([0-9]{{1,4}})\.', state_dict)
            downsamples.add(len(indices) + max(blocks, default=-1) + 1)
            indices = set(range(max(downsamples) + 1))
        last_stage = _numbers(r'stages\.3\.([0-9]{1,4})\.', state_dict)
    modules = {f'stem.stem.{a}': f'stem.{b}' for a, b in STEM.items()}
    stage = block = 0
    for i in sorted(indices):
        theirs = f'local_backbone.{i}'
        if i in downsamples:
            for a, b in CONV_NORM.items():
                modules[f'{theirs}.conv.{a}'] = f'downsamples.{stage}.{b}'
            stage, block = stage + 1, 0
        else:
            for a, b in _MBCONV.items():
                modules[f'{theirs}.{a}'] = f'stages.{stage}.{block}.{b}'
            block += 1
    for i in last_stage:
        for a, b in _SVGA.items():
            modules[f'backbone.{i}.{a}'] = f'stages.3.{i}.{b}'
    return modules


def _rename(key: str, modules: Mapping[str, str]) -> str:
    """Rename the longest known module name at the start of a key, if any."""
    head, tail = key, ''
    while head:
        if head in modules:
            return modules[head] + tail
        head, dot, last = head.rpartition('.')
        tail = dot + last + tail
    return key


def _under(names: Mapping[str, str], state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return the values under their new names, which must be unique."""
    olds: dict[str, str] = {}
    for old, new in names.items():
        if olds.setdefault(new, old) != old:
            raise UserError(
                f'The checkpoint has two weights of one name: {olds[new]} and {old} '
                f'would both become {new}. It mixes two layouts, or was changed.'
            )
    return {names[key]: value for key, value in state_dict.items()}


def _new_names(state_dict: Mapping[str, Any], layout: str) -> dict[str, str]:
    """Map each key of a layout to its name in the other layout."""
    modules = _modules(state_dict, layout)
    if layout != 'authors':
        modules = {b: a for a, b in modules.items()}
    return {key: _rename(key, modules) for key in state_dict}


def from_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the authors' keys to ours; unknown keys are not changed.

    Pyramid ViG's position matrices, which this package computes, are omitted.

    Args:
        state_dict (Mapping): Weights of a backbone under the authors' keys.

    Returns:
        dict: The same values under our keys, in the same order.

    Raises:
        UserError: If two weights would have the same name, or if a position matrix is
            not that of Pyramid ViG.
    """
    weights = without_positions(state_dict)
    return _under(_new_names(weights, 'authors'), weights)


def to_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename our keys to the authors', the inverse of :func:`from_authors`.

    Args:
        state_dict (Mapping): Weights of a backbone under our keys.

    Returns:
        dict: The same values under the authors' keys, with Pyramid ViG's position
        matrices.

    Raises:
        UserError: If two weights would have the same name.
    """
    names = _new_names(state_dict, 'mobilevig_det')
    return with_positions(_under(names, state_dict))


def find_backbones(keys: Iterable[str], layout: str) -> list[str]:
    """Find the prefixes of backbones whose keys are in a layout.

    Args:
        keys (Iterable[str]): Keys of a checkpoint.
        layout (str): 'authors' or 'mobilevig_det'.

    Returns:
        list[str]: For example '' for an ImageNet file, or 'backbone.' for a detector.
    """
    return [
        key[: -len(anchor)]
        for key in map(str, keys)
        for anchor in _ANCHORS[layout]
        if key == anchor or key.endswith('.' + anchor)
    ]


def convert(state_dict: Mapping[str, T], layout: str) -> dict[str, T]:
    """Rename the keys of each backbone of a classifier or detector.

    Args:
        state_dict (Mapping): Weights under the names of the other layout.
        layout (str): 'authors' or 'mobilevig_det'.

    Returns:
        dict: The same values in the same order. Pyramid ViG's position matrices are
        added for the authors' layout and removed for ours. Converting the result back
        restores the keys.

    Raises:
        UserError: See :func:`from_authors`.
    """
    (other,) = set(LAYOUTS) - {layout}
    prefixes = find_backbones(state_dict, other)
    weights = dict(state_dict)
    if other == 'authors':
        for prefix in prefixes:
            weights = without_positions(weights, prefix)
    names = {key: key for key in weights}
    for prefix in prefixes:
        inner = {
            k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)
        }
        for old, new in _new_names(inner, other).items():
            names[prefix + old] = prefix + new
    weights = _under(names, weights)
    if layout == 'authors':
        for prefix in prefixes:
            weights = with_positions(weights, prefix)
    return weights


def guess_arch(state_dict: Mapping, arch_settings: Mapping) -> str | None:
    """Find the size of a backbone that has the widths and depths of some weights.

    Args:
        state_dict (Mapping): Weights under our keys.
        arch_settings (Mapping): Settings of the backbone's sizes, by name.

    Returns:
        str | None: Name of the size, or None if no size fits.
    """
    keys = ('stem.1.conv.weight', *(f'downsamples.{i}.conv.weight' for i in range(3)))
    shapes = [tuple(getattr(state_dict.get(key), 'shape', ())) for key in keys]
    if not all(shapes):
        return None
    channels = tuple(shape[0] for shape in shapes)
    blocks = tuple(
        len({k.split('.')[2] for k in state_dict if k.startswith(f'stages.{s}.')})
        for s in range(4)
    )
    for name, setting in arch_settings.items():
        graph_blocks = setting.get('graph_blocks', (0,) * 4)
        if setting['channels'] == channels and blocks == tuple(
            map(sum, zip(setting['blocks'], graph_blocks))
        ):
            return name
    return None
