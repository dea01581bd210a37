"""What this package needs of the ones below it."""

import argparse
import pickle
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def _named(function: Callable, name: str) -> Callable:
    """The function, under the name by which files call it.

    torch < 2.6 takes no name beside a function.
    """

    def alias(*args):
        return function(*args)

    alias.__module__, _, alias.__name__ = name.rpartition('.')
    alias.__qualname__ = alias.__name__
    return alias


def _statistic(owner: type, name: str) -> Callable:
    """A statistic of HistoryBuffer, and nothing else that getattr can get.

    Every HistoryBuffer is pickled with its table of statistics, whose entries
    (``HistoryBuffer.mean`` …) are written as calls of ``getattr``.
    """
    HistoryBuffer()  # the first of a process fills the table
    if owner is not HistoryBuffer or name not in owner._statistics_methods:
        raise pickle.UnpicklingError(f'getattr({owner.__name__}, {name!r})')
    return owner._statistics_methods[name]


_core = np._core if hasattr(np, '_core') else np.core
_TYPES = [
    argparse.Namespace,
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'b1')),
    _named(_statistic, 'builtins.getattr'),
    # NumPy 2 renamed the module: files of either name, on either NumPy.
    *(
        _named(getattr(_core.multiarray, name), f'numpy.{folder}.multiarray.{name}')
        for folder in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]


def allow_checkpoint_types() -> None:
    """Let ``torch.load(weights_only=True)`` read what checkpoints hold.

    Exactly what MMEngine (the history of the losses, metrics as NumPy
    numbers) and the authors' training script (its arguments) put beside the
    weights; none of it runs code when it is loaded. Since torch 2.6 the safe
    mode is the default, and without this MMEngine could not read its own
    checkpoints back.
    """
    if hasattr(torch.serialization, 'add_safe_globals'):  # torch >= 2.4
        torch.serialization.add_safe_globals(_TYPES)
