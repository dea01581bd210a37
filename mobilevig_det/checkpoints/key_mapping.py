"""Map the names of a backbone's weights: the authors' and ours.

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
``prediction.…, head.…, dist_head.…``     the same: the classifier
========================================  ==================================

``i`` counts the blocks of stages 1-3 (s = 0, 1, 2) and each downsampling convolution,
so its meaning depends on the depths, which are read from the keys. The names of
MobileViG's siblings are in :mod:`.sibling_keys`, those of Pyramid ViG in
:mod:`.pyramid_keys`; the keys show whose a file has.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import UserError
from .pyramid_keys import is_pyramid, pyramid_modules, with_positions, without_positions
from .sibling_keys import CONV_NORM, STEM, is_siblings, sibling_modules

T = TypeVar('T')

CLASSIFIER_PREFIXES = ('prediction.', 'head.', 'dist_head.')

# Longer names first: 'mid' is the beginning of 'mid_norm'.
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

# A key that every backbone of the layout has, and no other model.
_ANCHORS = {
    'authors': (
        'local_backbone.0.layer_scale_2',
        'backbone.0.0.dws.pw1.weight',
        'stem.convs.0.weight',
    ),
    'mobilevig_det': ('downsamples.0.conv.weight',),
}


def is_authors_layout(keys: Iterable[str]) -> bool:
    """Return whether keys (without a detector's ``backbone.``) are the authors'."""
    return any(
        key.startswith(('local_backbone.', 'stem.stem.', 'stem.convs.')) for key in keys
    )


def backbone_of_classifier(state_dict: dict[str, T]) -> dict[str, T]:
    """Return the backbone's weights of a classifier that was trained here, without
    ``backbone.``; other weights are returned unchanged."""
    if not any(key.startswith('head.prediction.') for key in state_dict):
        return state_dict
    prefix = 'backbone.'
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


def with_parts(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Put ``backbone.`` or ``head.`` before the keys of the authors' ImageNet
    files."""
    return {
        ('head.' if key.startswith(CLASSIFIER_PREFIXES) else 'backbone.') + key: value
        for key, value in state_dict.items()
    }


def _numbers(pattern: str, keys: Iterable[str]) -> set[int]:
    """Collect the number that the pattern finds in front of each key."""
    return {int(found[1]) for key in keys if (found := re.match(pattern, key))}


def _modules(state_dict: Mapping[str, Any], layout: str) -> dict[str, str]:
    """Map the authors' names of the modules that keys belong to, to ours.

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
    """Rename the longest known module at the start of a key, if any."""
    head, tail = key, ''
    while head:
        if head in modules:
            return modules[head] + tail
        head, dot, last = head.rpartition('.')
        tail = dot + last + tail
    return key


def _under(names: Mapping[str, str], state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return the values under their new names, which must differ."""
    olds: dict[str, str] = {}
    for old, new in names.items():
        if olds.setdefault(new, old) != old:
            raise UserError(
                f'The checkpoint has two weights of one name: {olds[new]} and {old} '
                f'are both {new}. It mixes two layouts, or was changed.'
            )
    return {names[key]: value for key, value in state_dict.items()}


def _new_names(state_dict: Mapping[str, Any], layout: str) -> dict[str, str]:
    """Map each key, in the layout, to its name in the other one."""
    modules = _modules(state_dict, layout)
    if layout != 'authors':
        modules = {b: a for a, b in modules.items()}
    return {key: _rename(key, modules) for key in state_dict}


def from_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the authors' keys to ours; unknown keys stay as they are.

    Pyramid ViG's position matrices, which are computed here, are left out.

    Raises:
        UserError: If two weights would have one name, or a position matrix is not the
            one of Pyramid ViG.
    """
    weights = without_positions(state_dict)
    return _under(_new_names(weights, 'authors'), weights)


def to_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename our keys to the authors'; the inverse of :func:`from_authors`."""
    names = _new_names(state_dict, 'mobilevig_det')
    return with_positions(_under(names, state_dict))


def find_backbones(keys: Iterable[str], layout: str) -> list[str]:
    """Find the prefixes of the keys of backbones in a layout: '' in an ImageNet file,
    'backbone.' in a detector's."""
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
        dict: The same values in the same order, without or with Pyramid ViG's position
        matrices. Converting them back restores the keys.

    Raises:
        UserError: As :func:`from_authors`.
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
    """Return the name of the size whose widths and depths the weights have.

    Args:
        state_dict (Mapping): Weights under our keys.
        arch_settings (Mapping): Sizes of a backbone, by name.

    Returns:
        str | None: None if no size fits.
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
