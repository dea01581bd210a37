"""A backbone's checkpoint that does not fit: what it is, and what to do."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from .key_mapping import guess_arch, is_authors_layout
from .sibling_keys import family_of


def check_weights(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
    described: str,
    families: Mapping[str, Mapping[str, Mapping]],
) -> None:
    """Raise a UserError unless the weights are all there, and fit.

    Args:
        weights (Mapping): The checkpoint's, under the backbone's names.
        own (Mapping): The backbone's ``state_dict()``.
        prefix (str): What stood before their names in the checkpoint.
        described (str): The backbone and its size, for the message.
        families (Mapping): Of every backbone, its sizes by name.
    """
    shapes, given = (
        {
            key: tuple(getattr(value, 'shape', ()))
            for key, value in state_dict.items()
            if not key.endswith('num_batches_tracked')
        }
        for state_dict in (own, weights)
    )
    types = [
        f'{k} {weights[k].dtype} instead of {own[k].dtype}'
        for k in shapes
        if isinstance(weights.get(k), Tensor)
        and weights[k].is_floating_point() != own[k].is_floating_point()
    ]
    misfits = (
        ('missing', [k for k in shapes if k not in given]),
        ('unexpected', [k for k in given if k not in shapes]),
        (
            'of another shape',
            [
                f'{k} {given[k]} instead of {shapes[k]}'
                for k in shapes
                if k in given and given[k] != shapes[k]
            ],
        ),
        ('of another type', types),
    )
    if not any(keys for _, keys in misfits):
        return
    lines = [
        f'The checkpoint does not fit this backbone ({described}): '
        + diagnose(weights, own, prefix, families)
    ]
    for name, keys in misfits:
        if keys:
            more = f', … ({len(keys)} in all)' if len(keys) > 4 else ''
            lines.append(f'  {name}: {", ".join(keys[:4])}{more}')
    raise UserError('\n'.join(lines))


def diagnose(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
    families: Mapping[str, Mapping[str, Mapping]],
) -> str:
    """What the weights that do not fit seem to be, and what to do."""
    if not weights:
        return (
            f'it holds no weights under {prefix!r}: it is of another model.'
            if prefix
            else 'it holds no weights.'
        )
    family = family_of(weights)
    sizes = families.get(family, {})
    found = guess_arch(weights, sizes)
    if found and family != family_of(own):
        return (
            f'it is a {family}-{found.capitalize()}: use a config with type='
            f'{family!r} and arch={found!r}, or another checkpoint.'
        )
    if found and found != guess_arch(own, sizes):
        return (
            f'it is of arch={found!r}. Use the config of that size, '
            'or another checkpoint.'
        )
    if found:
        return 'it is of this arch, but not complete, or changed.'
    inner = {key[len('backbone.') :] for key in weights if key.startswith('backbone.')}
    if is_authors_layout(inner) or inner & set(own):
        return (
            "it is a whole detector's. For its backbone alone add "
            "prefix='backbone.' to init_cfg."
        )
    # What follows 'backbone.' in a classifier's names.
    if any(re.match(r'\d+\.\d+\.(fc1|graph_conv|dws|mixer)\.', k) for k in weights):
        return (
            "it is a classifier's. It belongs into the backbone's "
            'init_cfg, without a prefix.'
        )
    return 'it is of another model.'
