"""Checks of the content of a checkpoint that apply to any model.

:func:`.read_checkpoint` calls :func:`check_start` with the first bytes of the file and
:func:`check_content` with its content.
"""

import argparse
import logging
import pickle
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..errors import UserError

# Entries of a checkpoint that hold weights; a dict without them holds bare weights.
WEIGHTS = ('state_dict', 'state_dict_ema', 'ema_state_dict', 'model')
# Last parts of the names of weights that must be floating-point tensors. (Counters,
# indices and masks have other names.)
FLOATING_POINT = frozenset(
    ('weight', 'bias', 'running_mean', 'running_var', 'layer_scale', 'layer_scale_2')
)


def _statistic(owner: type, name: str) -> Callable:
    """Return a statistic of HistoryBuffer, in place of an unrestricted ``getattr``.

    Every HistoryBuffer is pickled with its table of statistics, whose entries
    (``HistoryBuffer.mean`` and others) are written as calls of ``getattr``.
    """
    HistoryBuffer()  # creating the first one fills the table of statistics
    if owner is not HistoryBuffer or name not in owner._statistics_methods:
        raise pickle.UnpicklingError(f'getattr({owner.__name__}, {name!r})')
    return owner._statistics_methods[name]


def allow_checkpoint_types() -> None:
    """Allow ``torch.load(weights_only=True)`` to read the types in checkpoints.

    MMEngine's own loader, which other programs use, needs this to read its own
    checkpoints with torch >= 2.6, where the safe mode is the default. The allowed types
    are those that MMEngine (loss histories, metrics as NumPy numbers) and the authors'
    training script (its arguments) save next to the weights. None of them runs code
    when it is loaded. :func:`.read_checkpoint` doesn't need this.
    """
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        return  # torch < 2.6
    core = np._core if hasattr(np, '_core') else np.core
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *(type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1')),
            (_statistic, 'builtins.getattr'),
            # NumPy 2 renamed the module; both names must work with both versions.
            *(
                (getattr(core.multiarray, name), f'numpy.{folder}.multiarray.{name}')
                for folder in ('core', '_core')
                for name in ('_reconstruct', 'scalar')
            ),
        ]
    )


def check_start(path: str, start: bytes) -> None:
    """Reject a file whose first bytes show that it is not a checkpoint.

    Args:
        path (str): Name of the file, for the message.
        start (bytes): First bytes of the file, at least 262 if it has as many.

    Raises:
        UserError: If the file is empty, a web page or a tar archive.
    """
    if not start:
        raise UserError(f'{path} is empty: copy or download it again.')
    if start.lstrip().startswith(b'<'):
        raise UserError(
            f'{path} is a web page (HTML or XML), not a checkpoint: download it '
            'again, through the link to the file itself.'
        )
    if start[257:262] == b'ustar':
        raise UserError(
            f'{path} was refused: it is a tar archive, which torch wrote before '
            '0.1.10 and cannot read safely. Unpack it if it holds a checkpoint, or '
            'save the weights again.'
        )


def check_content(path: str, content: Any) -> dict:
    """Validate the content of a checkpoint of any model.

    The function logs a warning if values of weights are NaN or infinite.

    Args:
        path (str): Name of the file, for the messages.
        content (Any): Content of the file.

    Returns:
        dict: The content.

    Raises:
        UserError: If the content isn't a dict, if a set of weights isn't a dict by
            names, if a name occurs twice (with and without ``module.``), if a weight,
            bias, normalization statistic or layer scale isn't a floating-point tensor,
            or if a running variance is negative, NaN or infinite.
    """
    if not isinstance(content, dict):
        raise UserError(
            f'{path} holds a {type(content).__name__}, but a checkpoint must hold a '
            'dict with its weights.'
        )
    for where in WEIGHTS[:3]:
        if not isinstance(content.get(where) or {}, Mapping):
            raise UserError(
                f'{path}: its {where} is a {type(content[where]).__name__}, where a '
                'dict of weights is expected.'
            )
    found = {k: content[k] for k in WEIGHTS if isinstance(content.get(k), Mapping)}
    for where, weights in (found or {'': content}).items():
        _check_weights(f'{path}: {where}'.rstrip(': '), weights)
    return content


def _check_weights(place: str, weights: Mapping) -> None:
    for key, value in weights.items():
        if not isinstance(key, str) or not key.isprintable() or len(key) > 300:
            raise UserError(
                f'{place} holds the key {reprlib.repr(key)}, where names of weights '
                'are expected.'
            )
        if key.startswith('module.') and key[len('module.') :] in weights:
            raise UserError(
                f'{place} has two weights of one name: {key}, and the same without '
                '"module.". The file was changed.'
            )
        if key.rpartition('.')[2] not in FLOATING_POINT:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = (
                f'a tensor of {value.dtype}'
                if isinstance(value, Tensor)
                else f'a {type(value).__name__}'
            )
            raise UserError(
                f'{place}: {key} is {found}, where a floating-point tensor is expected '
                "(float32, float16, bfloat16): it is damaged, or not a model's weights."
            )
        if key.endswith('running_var') and not value.is_meta:
            invalid = int((~value.isfinite() | (value < 0)).sum())
            if invalid:
                raise UserError(
                    f'{place}: {invalid} variances of {key} are negative, NaN or '
                    'infinite. A model with them computes NaN: use an older checkpoint.'
                )
    counts = non_finite_weights(weights)
    if counts:
        print_log(
            f'{place}: {describe_non_finite(counts)}. A model with them computes NaN: '
            'use an older checkpoint.',
            logger='current',
            level=logging.WARNING,
        )


def non_finite_weights(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """Count the NaN and infinite values of each weight.

    Args:
        state_dict (Mapping): Weights of any shape by name. Entries that aren't
            floating-point or complex tensors, and tensors without values (meta
            device, quantized), are skipped.

    Returns:
        dict[str, int]: Counts above 0 by name.
    """
    counts = {}
    for name, value in state_dict.items():
        if (
            not isinstance(value, Tensor)
            or value.is_meta
            or value.is_quantized
            or not (value.is_floating_point() or value.is_complex())
        ):
            continue
        value = value.detach()
        if value.layout is not torch.strided:
            value = value.to_dense()
        if value.element_size() == 1:  # float8 has no isfinite
            value = value.float()
        count = value.numel() - int(value.isfinite().sum())
        if count:
            counts[name] = count
    return counts


def describe_non_finite(counts: Mapping[str, int]) -> str:
    """Describe the result of :func:`non_finite_weights` in one line.

    Args:
        counts (Mapping[str, int]): Counts by name, at least one.
    """
    first = next(iter(counts))
    return (
        f'{sum(counts.values())} values of {len(counts)} weights are NaN or infinite '
        f'(first: {first}, {counts[first]} of them)'
    )
