"""Files that are either whole or not there, whatever happens while they are written."""

import errno
import os
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # disk, file-size limit, quota


def is_disk_full(error: OSError) -> bool:
    """Whether the error says that there is no room, and not something else."""
    return error.errno in FULL


def part_of(path: str) -> str:
    """Where the file is written until it is whole: hidden, in the same folder."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f'.{name}.part')


def write_durably(
    path: str, write: Callable[[str], None], check: Callable[[str], None] | None = None
) -> None:
    """Write a file so that a kill or a power cut leaves the old one or the new.

    Args:
        path (str): The file, which is replaced where it is there.
        write (Callable): Gets the path of a temporary file in the same folder,
            and writes it.
        check (Callable, optional): Gets the same path once it is on the disk,
            and raises where the file is not to be kept.

    Raises:
        OSError: If it cannot be written; the temporary file is removed.
        Exception: What ``check`` raises; likewise.
    """
    part = part_of(path)
    try:
        write(part)
        _sync(part)
        if check is not None:
            check(part)
        os.replace(part, path)
    except Exception:
        if os.path.exists(part):
            os.remove(part)
        raise
    _sync(os.path.dirname(path) or '.')


def write_text_durably(path: str, text: str) -> None:
    """:func:`write_durably` for a few characters."""

    def write(part: str) -> None:
        with open(part, 'w') as file:
            file.write(text)

    write_durably(path, write)


def _sync(path: str) -> None:
    """Have the disk itself hold a file's bytes, or a folder's names."""
    if os.path.isdir(path) and os.name == 'nt':
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
