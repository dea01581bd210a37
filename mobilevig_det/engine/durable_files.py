"""Files that are either whole or not there, whatever happens while they are written."""

import contextlib
import os
from collections.abc import Callable
from logging import Logger


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
        OSError: If it cannot be written; the temporary file is removed where it
            can be.
        BaseException: What ``check`` raises, or comes meanwhile; likewise.
    """
    part = part_of(path)
    try:
        write(part)
        _sync(part)
        if check is not None:
            check(part)
        os.replace(part, path)
    except BaseException:  # a Ctrl-C too
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.remove(part)
        raise
    _sync(os.path.dirname(path) or '.')


def write_text_durably(path: str, text: str) -> None:
    """:func:`write_durably` for a few characters."""

    def write(part: str) -> None:
        with open(part, 'w') as file:
            file.write(text)

    write_durably(path, write)


def remove(path: str, logger: Logger) -> bool:
    """Delete an old file, and say so where that isn't possible.

    Returns:
        bool: Whether there is no such file any more.
    """
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error(f'{path} could not be deleted ({error}).')
        return False
    return True


def _sync(path: str) -> None:
    """Have the disk itself hold a file's bytes, or a folder's names."""
    if os.path.isdir(path) and os.name == 'nt':
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
