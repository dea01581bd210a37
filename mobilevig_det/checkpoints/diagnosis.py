"""Explain why a checkpoint does not fit a model, and what to do about it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from ..errors import UserError
from .key_mapping import guess_arch, is_authors_layout
from .sibling_keys import family_of


@contextmanager
def explain_mismatch(
    file: str,
    advice: str = 'use the config that it was trained with (a copy is in its work dir)',
) -> Iterator[None]:
    """Turn the error of a strict ``load_state_dict`` in the block into a UserError.

    Args:
        file (str): Name of the checkpoint file, for the message.
        advice (str): What to do, as the end of a sentence.

    Yields:
        None

    Raises:
        UserError: If the weights don't fit. Other errors are not changed.

    Example:
        >>> with explain_mismatch('epoch_1.pth'):
        ...     model.load_state_dict(weights, strict=True)
    """
    try:
        yield
    except UserError as error:
        if file in str(error):
            raise
        raise UserError(f'{file}: {error}') from error
    except RuntimeError as error:
        # "Error(s) in loading state_dict" (torch), "The model and loaded state dict
        # do not match exactly" (MMEngine), but not "out of memory".
        if not re.search('load(ing|ed) state.dict', str(error)):
            raise
        raise UserError(
            f'{file} does not fit the config: {advice}.\n{str(error)[:4000]}'
        ) from error


def find_misfits(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Compare the weights of a checkpoint with those of a model.

    BatchNorm's counters (``num_batches_tracked``), which MMEngine doesn't need, are
    skipped.

    Args:
        weights (Mapping): Weights of the checkpoint, under the model's names.
        own (Mapping): The model's ``state_dict()``.

    Returns:
        dict[str, list[str]]: Names of weights that don't fit, with their shapes or
        dtypes, by kind of misfit; empty if all fit.
    """
    names, given = (
        [key for key in state_dict if not key.endswith('num_batches_tracked')]
        for state_dict in (own, weights)
    )
    misfits: dict[str, list[str]] = {
        'missing': [key for key in names if key not in weights],
        'unexpected': [key for key in given if key not in own],
        'of another shape': [],
        'of another type': [],
    }
    for key in names:
        value, like = weights.get(key, own[key]), own[key]
        shape = tuple(getattr(value, 'shape', ()))
        if shape != like.shape:
            said = f'{key} {shape} instead of {tuple(like.shape)}'
            misfits['of another shape'].append(said)
        elif not isinstance(value, Tensor) or (
            value.is_floating_point() != like.is_floating_point()
        ):
            found = getattr(value, 'dtype', type(value).__name__)
            misfits['of another type'].append(f'{key} {found} instead of {like.dtype}')
    return {kind: keys for kind, keys in misfits.items() if keys}


def check_weights(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
    described: str,
    families: Mapping[str, Mapping[str, Mapping]],
) -> None:
    """Check that a checkpoint has every weight of a backbone, and no others.

    Args:
        weights (Mapping): Weights of the checkpoint, under the backbone's names.
        own (Mapping): The backbone's ``state_dict()``.
        prefix (str): Prefix of the backbone's names in the checkpoint.
        described (str): The backbone and its size, for the message.
        families (Mapping): ``arch_settings`` of every backbone, by class name.

    Raises:
        UserError: If they don't fit. The message says which model the weights seem to
            belong to.
    """
    misfits = find_misfits(weights, own)
    if not misfits:
        return
    raise UserError(
        f'The checkpoint does not fit this backbone ({described}): '
        f'{_diagnose(weights, own, prefix, families)}\n{describe_misfits(misfits)}'
    )


def describe_misfits(misfits: Mapping[str, list[str]]) -> str:
    """Format the first names of each kind that :func:`find_misfits` found."""
    return '\n'.join(
        f'  {kind}: {", ".join(keys[:4])}'
        + (f' and {len(keys) - 4} more' if len(keys) > 4 else '')
        for kind, keys in misfits.items()
    )


def _diagnose(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
    families: Mapping[str, Mapping[str, Mapping]],
) -> str:
    """Say which model the weights seem to belong to, and what to do."""
    if not weights:
        return (
            f'it holds no weights under {prefix!r}: it belongs to another model.'
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
            f'it has arch={found!r}. Use the config of that size, '
            'or another checkpoint.'
        )
    if found:
        return 'it has this arch, but it is incomplete or was changed.'
    inner = {key[len('backbone.') :] for key in weights if key.startswith('backbone.')}
    if is_authors_layout(inner) or inner & set(own):
        return (
            'it belongs to a complete detector. To load only its backbone, add '
            "prefix='backbone.' to init_cfg."
        )
    # Names of a classifier, after 'backbone.'.
    if any(re.match(r'\d+\.\d+\.(fc1|graph_conv|dws|mixer)\.', k) for k in weights):
        return (
            "it belongs to a classifier. Load it by the backbone's init_cfg, without a "
            'prefix.'
        )
    return 'it belongs to another model.'
