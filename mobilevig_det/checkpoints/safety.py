"""Safety checks of untrusted checkpoints.

:func:`.read_checkpoint` calls them in this order: :func:`check_file` before torch
opens the file, :func:`allow_checkpoint_types` for what torch may unpickle, and
:func:`check_content` for what came out.
"""

import argparse
import logging
import mmap
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..errors import UserError

# torch.save compresses nothing, and weights that others compress shrink little. Ten
# times the file's size is far beyond that; below 16 MiB no claim does any harm.
MAX_EXPANSION = 10
ALWAYS_ALLOWED_BYTES = 16 << 20
# torch's safe mode calls it, and a short pickle can ask it for any number of bytes.
BYTEARRAY = b'bytearray\n'
# Entries of a checkpoint that hold weights; without any, its weights are bare.
WEIGHTS = ('state_dict', 'state_dict_ema', 'ema_state_dict', 'model')
# Last parts of the names of floating-point weights: no count, index or mask.
FLOATING_POINT = frozenset(
    ('weight', 'bias', 'running_mean', 'running_var', 'layer_scale', 'layer_scale_2')
)


def _named(function: Callable, name: str) -> Callable:
    """Return the function under the name by which files call it.

    torch < 2.6 accepts no name next to a function.
    """

    def alias(*args):
        return function(*args)

    alias.__module__, _, alias.__name__ = name.rpartition('.')
    alias.__qualname__ = alias.__name__
    return alias


def _statistic(owner: type, name: str) -> Callable:
    """Return a statistic of HistoryBuffer, and nothing else that getattr can get.

    Every HistoryBuffer is pickled with its table of statistics, whose entries
    (``HistoryBuffer.mean`` and others) are written as calls of ``getattr``.
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

    These are exactly the types that MMEngine (loss histories, metrics as NumPy
    numbers) and the authors' training script (its arguments) save next to the
    weights. None of them runs code when it is loaded. Without them, MMEngine can't
    read its own checkpoints with torch >= 2.6, where the safe mode is the default.
    """
    if hasattr(torch.serialization, 'add_safe_globals'):  # torch >= 2.4
        torch.serialization.add_safe_globals(_TYPES)


def check_file(path: str) -> None:
    """Refuse a file that torch must not open, before it does.

    Reads the beginning, the table of contents and the pickles, but no weights.

    Args:
        path (str): An existing file.

    Raises:
        UserError: If it is unreadable, empty, truncated, a web page, a TorchScript
            program, a tar archive, or a decompression bomb.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(1024)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if not start:
        raise UserError(f'{path} is empty: copy or download it again.')
    if start.lstrip().startswith(b'<'):
        raise UserError(
            f'{path} is a web page (HTML or XML), not a checkpoint: download it '
            'again, through the link to the file itself.'
        )
    if start.startswith(b'PK'):
        _check_zip(path)
    elif _is_tar(path):
        raise UserError(
            f'{path} was refused: it is a tar archive, which torch wrote before '
            '0.1.10 and cannot read safely. Unpack it if it holds a checkpoint, or '
            'save the weights again.'
        )
    else:
        with (
            open(path, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            _check_pickle(path, data)


def _check_zip(path: str) -> None:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f'{path} is cut off ({os.path.getsize(path)} bytes are there): copy or '
            'download it again.'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_size(path, sum(entry.file_size for entry in entries), 'entries')
            for entry in entries:
                if entry.filename.endswith('/constants.pkl'):
                    raise UserError(
                        f'{path} was refused: it is a TorchScript program, where a '
                        'checkpoint holds weights. Save its state_dict() instead.'
                    )
                if entry.filename.endswith('.pkl'):
                    _check_pickle(path, archive.read(entry))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile raise
        raise unreadable(path, error) from error


def _is_tar(path: str) -> bool:
    try:
        with tarfile.open(path, 'r:'):  # as torch tries
            return True
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return False


def _check_pickle(path: str, data: bytes | mmap.mmap) -> None:
    if data.find(BYTEARRAY) >= 0:
        raise UserError(
            f'{path} was refused: next to weights it holds a bytearray, which can '
            'fill the memory. If you trust where it comes from, save its weights '
            "alone there: torch.save({'state_dict': weights}, file)."
        )


def _check_size(path: str, claimed: int, what: str) -> None:
    size = os.path.getsize(path)
    if claimed > ALWAYS_ALLOWED_BYTES + MAX_EXPANSION * size:
        raise UserError(
            f'{path} was refused: its {what} claim {claimed:,} bytes, but the file '
            f'has {size:,}. It is made to fill the memory, or damaged.'
        )


def unreadable(path: str, error: Exception) -> UserError:
    """Return the error for a file that can't be read as a checkpoint."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f'{path} cannot be read as a PyTorch checkpoint ({reason}): it is damaged, '
        'or another kind of file.'
    )


def check_content(path: str, content: Any) -> None:
    """Check what torch has read from a file, of whatever model.

    Logs a warning with the number of weights that are NaN or infinite.

    Args:
        path (str): The file, for the messages.
        content (Any): What it holds.

    Raises:
        UserError: If it isn't a dict, if tensors claim far more values than are
            stored (views with a stride of 0 cost nothing until they are copied), if
            a set of weights isn't a dict of names, or if anything but a
            floating-point tensor has the name of a weight, a bias, a normalization
            statistic or a layer scale.
    """
    if not isinstance(content, dict):
        raise UserError(
            f'{path} holds a {type(content).__name__}, where a checkpoint holds a '
            'dict with its weights.'
        )
    _check_size(path, _claimed_bytes(content), 'tensors')
    for where in WEIGHTS[:3]:
        if not isinstance(content.get(where) or {}, Mapping):
            raise UserError(
                f'{path}: its {where} is a {type(content[where]).__name__}, where a '
                'dict of weights is expected.'
            )
    found = {k: content[k] for k in WEIGHTS if isinstance(content.get(k), Mapping)}
    for where, weights in (found or {'': content}).items():
        _check_weights(f'{path}: {where}'.rstrip(': '), weights)


def _claimed_bytes(content: Any) -> int:
    """Add up tensors and arrays in nested containers, which may hold themselves."""
    claimed = 0
    seen: set[int] = set()
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            claimed += value.numel() * value.element_size()
        elif isinstance(value, np.ndarray):
            claimed += value.nbytes
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                left.extend(value.values())
            elif isinstance(value, list | tuple | set):
                left.extend(value)
            elif hasattr(value, '__dict__'):  # a HistoryBuffer, a Namespace
                left.extend(vars(value).values())
    return claimed


def _check_weights(place: str, weights: Mapping) -> None:
    for key, value in weights.items():
        if not isinstance(key, str):
            raise UserError(
                f'{place} holds the key {key!r}, where names of weights are expected.'
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
    counts = non_finite_weights(weights)
    if counts:
        print_log(
            f'{place}: {describe_non_finite(counts)}. A model with them computes NaN: '
            'use an older checkpoint.',
            logger='current',
            level=logging.WARNING,
        )


def non_finite_weights(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """Count the values of each weight that are NaN or infinite.

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
    """Describe what :func:`non_finite_weights` found, in one line."""
    first = next(iter(counts))
    return (
        f'{sum(counts.values())} values of {len(counts)} weights are NaN or infinite '
        f'(first: {first}, {counts[first]} of them)'
    )
