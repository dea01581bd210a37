"""Names of the backbone's weights: the authors' and ours, and back.

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

``i`` runs through stages 1-3 (s = 0, 1, 2) with each downsampling
convolution as an entry of its own, so its meaning depends on the depths,
which are read off the keys. MobileViG's siblings have names of their own, in
:mod:`.sibling_keys`; which of the two a file has, its keys tell.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..errors import UserError
from .sibling_keys import (
    CONV_NORM,
    STEM,
    is_siblings,
    modules_from_authors,
    modules_to_authors,
)

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
    'authors': ('local_backbone.0.layer_scale_2', 'backbone.0.0.dws.pw1.weight'),
    'mobilevig_det': ('downsamples.0.conv.weight',),
}


def is_authors_layout(keys: Iterable[str]) -> bool:
    """Whether the keys (without a ``backbone.`` of a detector in front) are
    the authors'."""
    return any(key.startswith(('local_backbone.', 'stem.stem.')) for key in keys)


def backbone_of_classifier(state_dict: dict[str, T]) -> dict[str, T]:
    """The backbone's weights, without ``backbone.``, of a classifier that was
    trained here; all others as they are."""
    if 'head.dist_head.weight' not in state_dict:
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
    """Of the keys that begin so; other names are nobody's block."""
    return {int(found[1]) for key in keys if (found := re.match(pattern, key))}


def _modules(keys: Iterable[str]) -> dict[str, str]:
    """Names of the modules that the authors' keys belong to, to ours."""
    keys = list(keys)
    modules = {f'stem.stem.{a}': f'stem.{b}' for a, b in STEM.items()}
    indices = _numbers(r'local_backbone\.([0-9]{1,4})\.', keys)
    downsamples = _numbers(r'local_backbone\.([0-9]{1,4})\.conv\.', keys)
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
    for place in {k.split('.')[1] for k in keys if k.startswith('backbone.')}:
        for a, b in _SVGA.items():
            modules[f'backbone.{place}.{a}'] = f'stages.3.{place}.{b}'
    return modules


def _rename(key: str, modules: Mapping[str, str]) -> str:
    """Rename the longest known module in front of a key; keep others."""
    head, tail = key, ''
    while head:
        if head in modules:
            return modules[head] + tail
        head, dot, last = head.rpartition('.')
        tail = dot + last + tail
    return key


def _under(names: Mapping[str, str], state_dict: Mapping[str, T]) -> dict[str, T]:
    """The values under their new names, of which no two may be alike."""
    olds: dict[str, str] = {}
    for old, new in names.items():
        if olds.setdefault(new, old) != old:
            raise UserError(
                f'The checkpoint has two weights of one name: {olds[new]} and {old} '
                f'are both {new}. It mixes two layouts, or was changed.'
            )
    return {names[key]: value for key, value in state_dict.items()}


def from_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the authors' keys to ours; unknown keys stay as they are.

    Raises:
        UserError: If two weights would have one name.
    """
    modules = (
        modules_from_authors(state_dict)
        if is_siblings(state_dict)
        else _modules(state_dict)
    )
    return _under({k: _rename(k, modules) for k in state_dict}, state_dict)


def to_authors(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The inverse of :func:`from_authors`, key by key."""
    modules = (
        modules_to_authors(state_dict)
        if is_siblings(state_dict)
        else {
            ours: name for name, ours in _modules(_representatives(state_dict)).items()
        }
    )
    return _under({k: _rename(k, modules) for k in state_dict}, state_dict)


def _representatives(state_dict: Mapping[str, T]) -> list[str]:
    """Keys of the authors', from which :func:`_modules` reads the depths of a
    MobileViG with our keys."""
    depths: list[int] = [0, 0, 0]
    for key in state_dict:
        match = re.match(r'stages\.([012])\.([0-9]{1,4})\.', key)
        if match:
            stage, block = map(int, match.groups())
            depths[stage] = max(depths[stage], block + 1)
    theirs = []
    index = 0
    for depth in depths:
        theirs += [f'local_backbone.{index + b}.layer_scale_2' for b in range(depth)]
        theirs.append(f'local_backbone.{index + depth}.conv.0.weight')
        index += depth + 1
    return theirs + [
        f'backbone.{k.split(".")[2]}.0.fc1.0.weight'
        for k in state_dict
        if k.startswith('stages.3.')
    ]


def find_backbones(keys: Iterable[str], layout: str) -> list[str]:
    """What stands before the keys of a backbone in that layout: '' in an
    ImageNet file, 'backbone.' in a detector's; none if there is no such."""
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
        dict: The same values in the same order. Converting them back gives
        the same keys again.

    Raises:
        UserError: If two weights would have one name.
    """
    rename, other = {
        'authors': (to_authors, 'mobilevig_det'),
        'mobilevig_det': (from_authors, 'authors'),
    }[layout]
    names = {key: key for key in state_dict}
    for prefix in find_backbones(state_dict, other):
        old = [key for key in state_dict if key.startswith(prefix)]
        inner = {key[len(prefix) :]: state_dict[key] for key in old}
        names.update((key, prefix + new) for key, new in zip(old, rename(inner)))
    return _under(names, state_dict)


def guess_arch(state_dict: Mapping, arch_settings: Mapping) -> str | None:
    """Name of the arch whose widths and depths the weights (our keys) have,
    or None."""
    stem = 'stem.1.conv.weight'
    downs = [f'downsamples.{i}.conv.weight' for i in range(3)]
    if any(key not in state_dict for key in (stem, *downs)):
        return None
    shapes: list[tuple[int, ...]] = [
        tuple(getattr(state_dict[key], 'shape', ())) for key in (stem, *downs)
    ]
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
