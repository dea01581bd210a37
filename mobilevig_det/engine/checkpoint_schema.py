"""The structure of a training checkpoint, which MMEngine takes for granted."""

import os
import random
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError


class Malformed(Exception):
    """An entry is not as a training saves it."""


class Kind(NamedTuple):
    """What an entry must be: its description, and the function that tells."""

    name: str
    fits: Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """Return whether a value is an integer from 0 on that fits into 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_dense(value: Any) -> bool:
    """Return whether a value is a tensor with one value in memory for each entry."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_nested)
    )


def _is_history(value: Any) -> bool:
    if not isinstance(value, HistoryBuffer):
        return False
    data = [getattr(value, f'_{name}_history', None) for name in ('log', 'count')]
    return all(
        isinstance(numbers, np.ndarray)
        and numbers.ndim == 1
        and numbers.dtype.kind in 'fiu'
        and len(numbers) == len(data[0])  # type: ignore[arg-type]
        for numbers in data
    )


def _is_epoch_start(value: Any) -> bool:
    counts = isinstance(value, list | tuple) and all(map(is_count, value))
    return counts and len(value) == 3 and value[2] > 0


def _is_kept_checkpoint(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and value[0] == os.path.basename(value[0])
    )


def _are_random_states(states: Any) -> bool:
    """Try the states of Python, NumPy and torch on generators that nobody uses."""
    try:
        version, internal, gauss = states['python']
        random.Random().setstate((version, tuple(internal), gauss))
        name, keys, position, *rest = states['numpy']
        keys = np.array(keys, dtype=np.uint32)
        np.random.RandomState().set_state((name, keys, position, *rest))
        torch.Generator().set_state(states['torch'].cpu())
        # NumPy reads at this position without a check.
        in_range = is_count(position) and position <= len(keys) == 624
        return (
            in_range
            and isinstance(states['cuda'], list)
            and all(map(is_dense, states['cuda']))
        )
    except Exception:  # whatever the generators raise
        return False


COUNT = Kind('a count', is_count)
_NUMBER = Kind('a number', lambda value: isinstance(value, Number))
_BOOL = Kind('True or False', lambda value: isinstance(value, bool))
_TEXT = Kind('a string', lambda value: value is None or isinstance(value, str))
_STATES = Kind('a dict or a list', lambda value: isinstance(value, dict | list))
_TENSORS = {'*?': Kind('a dense tensor', is_dense)}
# See check_structure.
_CHECKPOINT = {
    'meta': {
        'epoch': COUNT,
        'iter': COUNT,
        'seed?': Kind('a count', lambda value: value is None or is_count(value)),
    },
    'state_dict': _TENSORS,
    'ema_state_dict?': _TENSORS,
    'optimizer?': _STATES,
    'param_schedulers?': _STATES,
    'message_hub': {
        'log_scalars': {'*?': Kind('a history of numbers', _is_history)},
        'resumed_keys': {'*?': _BOOL},
        # What this package and MMEngine's CheckpointHook read from it.
        'runtime_info': {
            'epoch_start?': Kind('three counts', _is_epoch_start),
            'sampler_seed?': COUNT,
            'validated_iter?': COUNT,
            'kept_checkpoints?': [
                Kind('a pair of a file name and a bool', _is_kept_checkpoint)
            ],
            'keep_ckpt_ids?': [COUNT],
            'run?': _TEXT,
            'best_ckpt*?': _TEXT,
            'best_score*?': _NUMBER,
        },
    },
    'training_state?': {
        'processes': COUNT,
        'of_each': [
            {
                'gradients': _TENSORS,
                'buffers': _TENSORS,
                'random': Kind('states of the random generators', _are_random_states),
            }
        ],
    },
}


def check_training_checkpoint(content: Any, name: str, complete: bool = True) -> None:
    """Check that each entry that a training resumes from has the right structure.

    Args:
        content (Any): What the file holds.
        name (str): Its name, for the message.
        complete (bool): Whether ``meta`` and ``message_hub`` must have all entries.
            Defaults to True.

    Raises:
        UserError: For the first entry that is missing or malformed.
    """
    schema: dict = _CHECKPOINT
    if not complete:
        optional = {
            key: {f'{name.rstrip("?")}?': each for name, each in schema[key].items()}
            for key in ('meta', 'message_hub')
        }
        schema = {**schema, **optional}
    try:
        check_structure(content, schema, 'content')
    except Malformed as problem:
        raise UserError(f'{name} is not a training checkpoint: {problem}.') from problem


def check_structure(value: Any, schema: Any, place: str) -> None:
    """Compare a value with a schema, recursively.

    Args:
        value (Any): From a checkpoint.
        schema (Any): A :class:`Kind`; a list of the schema of all entries of a list; or
            a dict of schemas by name. Names may be patterns. Those that end in a
            question mark may be missing, and entries of other names may be there.
        place (str): The name of the value, for the message.

    Raises:
        Malformed: At the first entry that is missing or of another kind.
    """
    if isinstance(schema, Kind):
        need(schema.fits(value), place, schema.name, value)
    elif isinstance(schema, list):
        need(isinstance(value, list | tuple), place, 'a list', value)
        for number, each in enumerate(value):
            check_structure(each, schema[0], f'{place}[{number}]')
    else:
        named = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        need(named, place, 'a dict with names as keys', value)
        for pattern, each in schema.items():
            name = pattern.rstrip('?')
            found = [key for key in value if fnmatchcase(key, name)]
            if not found and name == pattern:
                raise Malformed(f'{place} has no {name}')
            for key in found:
                entry = key if place == 'content' else f'{place}.{key}'
                check_structure(value[key], each, entry)


def need(good: bool, place: str, kind: str, value: Any) -> None:
    """Raise :class:`Malformed` for a value that is not good.

    Args:
        good (bool): Whether the value is as it must be.
        place (str): Its name in the checkpoint.
        kind (str): What it must be.
        value (Any): What it is.

    Raises:
        Malformed: If it is not good.
    """
    if not good:
        simple = value is None or isinstance(value, Number)
        found = repr(value)[:40] if simple else kind_of(value)
        raise Malformed(f'{place} must be {kind}, but is {found}')


def kind_of(value: Any) -> str:
    """Name the kind of a value: values of one kind can replace each other.

    Args:
        value (Any): A setting, a tensor, or a list or dict of them.

    Returns:
        str: Such as ``a number``, or the shape and dtype of a tensor.
    """
    if isinstance(value, bool):
        return 'True or False'
    if isinstance(value, Number):
        return 'a number'
    if isinstance(value, list | tuple):
        return f'{len(value)} values, {" and ".join(sorted({*map(kind_of, value)}))}'
    if isinstance(value, Mapping):
        kinds = {*map(kind_of, value.keys()), *map(kind_of, value.values())}
        return f'a dict of {" and ".join(sorted(kinds))}'
    if isinstance(value, Tensor):
        shape = tuple(value.shape) if is_dense(value) else 'without values'
        return f'a tensor {shape} of {value.dtype}'
    return f'of type {type(value).__name__}'
