"""Files that would take far more memory than they are long."""

import mmap
import os
import tarfile
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError

# torch.save compresses nothing. Weights that were compressed by others shrink
# little; ten times is far beyond, and so little that it can't hurt is let be.
TIMES = 10
LITTLE = 16 << 20  # bytes
# torch's safe mode calls it, and it fills as many bytes as a few say.
FILLS_MEMORY = b'bytearray\n'


def check_container(path: str) -> None:
    """Raise a UserError for an archive that is not to be opened by torch.

    Looks at the table of contents and for one name: no weight is read.

    Args:
        path (str): A file that is there.

    Raises:
        UserError: If it is a zip archive whose entries claim far more bytes
            than it has, a program of TorchScript, a tar archive, which torch
            would first unpack to a folder, or if a pickle fills memory.
    """
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                claimed = sum(entry.file_size for entry in entries)
                _check_bytes(path, claimed, 'entries')
                fills = any(
                    FILLS_MEMORY in archive.read(entry)
                    for entry in entries
                    if entry.filename.endswith('.pkl')
                )
        except UserError:
            raise
        except Exception:  # whatever a broken archive makes zipfile raise
            return  # torch says what is wrong
        if any(entry.filename.endswith('/constants.pkl') for entry in entries):
            raise UserError(
                f'{path} was refused: it is a TorchScript program, where a '
                'checkpoint holds weights. Save its state_dict() instead.'
            )
        if fills:
            _refuse_bytearray(path)
    elif _fills_memory(path):
        _refuse_bytearray(path)
    elif _is_tar(path):
        raise UserError(
            f'{path} was refused: it is a tar archive, as torch wrote before 0.1.10 '
            'and which cannot be read safely. Unpack it if it holds a checkpoint, or '
            'save the weights anew.'
        )


def check_content(path: str, content: Any) -> None:
    """Raise a UserError if tensors claim far more values than are stored.

    Views of few stored values, repeated by a stride of 0, cost nothing until
    someone copies them.
    """
    claimed = 0
    for value in _values(content):
        claimed += (
            value.numel() * value.element_size()
            if isinstance(value, Tensor)
            else value.nbytes
        )
    _check_bytes(path, claimed, 'tensors')


def _check_bytes(path: str, claimed: int, what: str) -> None:
    size = os.path.getsize(path)
    if claimed > LITTLE + TIMES * size:
        raise UserError(
            f'{path} was refused: its {what} claim {claimed:,} bytes, and the file '
            f'has {size:,}. It is made to fill the memory, or damaged.'
        )


def _refuse_bytearray(path: str) -> None:
    raise UserError(
        f'{path} was refused: beside weights it makes a bytearray, which can fill '
        'the memory. If you trust where it comes from, save its weights alone '
        "there: torch.save({'state_dict': …}, file)."
    )


def _fills_memory(path: str) -> bool:
    with (
        open(path, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return data.find(FILLS_MEMORY) >= 0


def _is_tar(path: str) -> bool:
    try:
        with tarfile.open(path, 'r:'):  # as torch tries
            return True
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return False


def _values(content: Any) -> Iterable[Tensor | np.ndarray]:
    """Tensors and arrays, however deep; containers that hold themselves end."""
    seen: set[int] = set()
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor | np.ndarray):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                left.extend(value.values())
            elif isinstance(value, list | tuple | set):
                left.extend(value)
            elif hasattr(value, '__dict__'):  # a HistoryBuffer, a Namespace
                left.extend(vars(value).values())
