"""Map the weight names of MobileViG's siblings between the authors' layout and ours.

==========================================  =====================================
authors (s, b from 0)                       here
==========================================  =====================================
``stem.stem.{0,1,3,4}``                     ``stem.{0,1}.{conv,norm}``
``backbone.s.0.conv.{0,1}``, s > 0          ``downsamples.s-1.{conv,norm}``
``backbone.s.b.dws.{pw1,norm1}``            ``stages.s.b'.expand.{conv,norm}``
``backbone.s.b.dws.{dw,norm2}``             ``stages.s.b'.depthwise.…``
``backbone.s.b.dws.{pw2,norm3}``            ``stages.s.b'.project.…``
``backbone.s.b.layer_scale_{1,2}``          ``stages.s.b'.layer_scale``
``backbone.s.b.mixer.cpe.pe``               ``stages.s.b'.mixer.position``
``backbone.s.b.mixer.cpe.reparam_conv``     ``stages.s.b'.mixer.folded_position``
``backbone.s.b.mixer.{fc1,fc2}.{0,1}``      ``stages.s.b'.mixer.{fc1,fc2}.…``
``backbone.s.b.mixer.graph_conv.…``         ``stages.s.b'.mixer.graph_conv.…``
``backbone.s.b.layer_scale_1``, with mixer  ``stages.s.b'.mixer.layer_scale``
``backbone.s.b.layer_scale_2``, with mixer  ``stages.s.b'.ffn.layer_scale``
``backbone.s.b.ffn.…``                      ``stages.s.b'.ffn.…``
==========================================  =====================================

b' is b in the first stage and b - 1 in the others, in which the authors count the
downsampling as block 0. The layer scale of an MBConv is called ``layer_scale_2`` if it
has one dimension (GreedyViG, AdaptViG), and ``layer_scale_1`` otherwise.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from ..errors import UserError

T = TypeVar('T')

STEM = {'0': '0.conv', '1': '0.norm', '3': '1.conv', '4': '1.norm'}
CONV_NORM = {'0': 'conv', '1': 'norm'}
_IN_A_BLOCK = {
    'dws.pw1': 'expand.conv',
    'dws.norm1': 'expand.norm',
    'dws.dw': 'depthwise.conv',
    'dws.norm2': 'depthwise.norm',
    'dws.pw2': 'project.conv',
    'dws.norm3': 'project.norm',
    'mixer.cpe.pe': 'mixer.position',
    'mixer.cpe.reparam_conv': 'mixer.folded_position',
    'mixer.graph_conv.temperature': 'mixer.graph_step.temperature',
    **{
        f'mixer.{part}.{i}': f'mixer.{part}.{name}'
        for part in ('fc1', 'fc2')
        for i, name in CONV_NORM.items()
    },
    # RapidNet has dilated convolutions instead of a graph.
    **{
        f'mixer.graph_conv.nn_2.{i}': f'mixer.graph_conv.1.{name}'
        for i, name in CONV_NORM.items()
    },
    **{
        f'mixer.graph_conv.{x}_{theirs}': f'mixer.graph_step.{x}{ours}'
        for x in 'qkv'
        for theirs, ours in (('conv', ''), ('norm', '_norm'))
    },
    'ffn.0': 'ffn.fc1.conv',
    'ffn.1': 'ffn.fc1.norm',
    'ffn.3': 'ffn.fc2.conv',
    'ffn.4': 'ffn.fc2.norm',
    'ffn.conv.conv': 'ffn.depthwise.conv',
    'ffn.norm1': 'ffn.depthwise.norm',
    'ffn.fc1': 'ffn.fc1.conv',
    'ffn.norm2': 'ffn.fc1.norm',
    'ffn.fc2': 'ffn.fc2.conv',
    'ffn.norm3': 'ffn.fc2.norm',
}
_BLOCK = re.compile(r'(backbone|stages)\.([0-3])\.([0-9]{1,4})\.')


def _blocks(keys: Iterable[str]) -> dict[str, set[str]]:
    """Group keys by block (``backbone.s.b.`` or ``stages.s.b.``)."""
    found: dict[str, set[str]] = {}
    for key in keys:
        if match := _BLOCK.match(key):
            found.setdefault(match[0], set()).add(key[match.end() :])
    return found


def _names_in_block(rests: Iterable[str]) -> dict[str, str]:
    """Map the authors' modules to ours, for a block that has these keys."""
    names = dict(_IN_A_BLOCK)
    mixes = any(rest.startswith('mixer.') for rest in rests)
    dilated = any(
        rest.startswith(('mixer.graph_conv.nn_2.', 'mixer.graph_conv.1.'))
        for rest in rests
    )
    for i, name in CONV_NORM.items():
        place = '0.' if dilated else ''
        names[f'mixer.graph_conv.nn.{i}'] = f'mixer.graph_conv.{place}{name}'
    # RapidNet names its layers ('ffn.fc1'); the others number them ('ffn.0').
    for theirs in [key for key in names if key.startswith('ffn.')]:
        if theirs.split('.')[1].isdigit() == dilated:
            del names[theirs]
    if mixes:
        names['layer_scale_1'] = 'mixer.layer_scale'
        names['layer_scale_2'] = 'ffn.layer_scale'
    return names


def sibling_modules(state_dict: Mapping[str, T], layout: str) -> dict[str, str]:
    """Map the authors' names of the modules in a state dict to ours.

    Args:
        state_dict (Mapping): Weights under the keys of the layout.
        layout (str): 'authors' or 'mobilevig_det'.

    Returns:
        dict[str, str]: Our name of each module by the authors' name.
    """
    modules = {f'stem.stem.{a}': f'stem.{b}' for a, b in STEM.items()}
    for i in range(3):
        for a, b in CONV_NORM.items():
            modules[f'backbone.{i + 1}.0.conv.{a}'] = f'downsamples.{i}.{b}'
    for place, rests in _blocks(state_dict).items():
        kind, stage, block, _ = place.split('.')
        downsamples = int(stage != '0')  # the authors count it as a block
        names = _names_in_block(rests)
        if layout == 'authors' and kind == 'backbone' and int(block) >= downsamples:
            theirs, ours = place, f'stages.{stage}.{int(block) - downsamples}.'
            names.setdefault('layer_scale_1', 'layer_scale')
            names.setdefault('layer_scale_2', 'layer_scale')
        elif layout != 'authors' and kind == 'stages':
            theirs, ours = f'backbone.{stage}.{int(block) + downsamples}.', place
            shape = getattr(state_dict.get(f'{place}layer_scale'), 'shape', ())
            names.setdefault(
                f'layer_scale_{2 if len(shape) == 1 else 1}', 'layer_scale'
            )
        else:
            continue
        modules.update((theirs + a, ours + b) for a, b in names.items())
    return modules


def with_unfolded_positions(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Undo the folding of position encodings.

    The code of MobileViGv2 and RapidNet can fold the residual connection around the
    convolution of a position encoding into the convolution's centre weight.

    Args:
        state_dict (Mapping): Weights under our keys.

    Returns:
        dict: Weights with unfolded position encodings.

    Raises:
        UserError: If a position encoding occurs twice, folded and unfolded.
    """
    weights: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = key.replace('.mixer.folded_position.', '.mixer.position.')
        if name in weights:
            raise UserError(f'The checkpoint has two weights of one name: {name}.')
        weights[name] = value
        if name != key and isinstance(value, Tensor) and value.dim() == 4:
            unfolded = value.clone()
            unfolded[:, :, value.shape[2] // 2, value.shape[3] // 2] -= 1
            weights[name] = unfolded
    return weights


def is_siblings(keys: Iterable[str]) -> bool:
    """Return whether the keys, in either layout, belong to a sibling of MobileViG."""
    return any(
        (match := _BLOCK.match(key))
        and key[match.end() :].startswith(('dws.', 'mixer.'))
        for key in keys
    )


def family_of(state_dict: Mapping[str, T]) -> str:
    """Guess which backbone some weights belong to.

    Args:
        state_dict (Mapping): Weights under our keys.

    Returns:
        str: Class name of the backbone; 'MobileViG' if nothing indicates another one.
    """
    keys = list(state_dict)
    if 'stem.pos_embed' in state_dict:
        return 'PyramidViG'
    if any('.mixer.graph_conv.1.' in key for key in keys):
        return 'RapidNet'
    if any('.graph_step.' in key for key in keys):
        return 'AdaptViG'
    if not is_siblings(keys):
        return 'MobileViG'
    scale = getattr(state_dict.get('stages.0.0.layer_scale'), 'shape', ())
    return 'GreedyViG' if len(scale) == 1 else 'MobileViGv2'
