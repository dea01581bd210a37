"""Atomic file writes.

No other module of the project names temporary files, replaces a file with a new
version or calls ``fsync``. Whatever interrupts a write (an error, Ctrl-C, a kill, a
power cut), a reader finds either the complete old version or the complete new one. A
folder is replaced by two renames: a reader never finds it incomplete, but finds none
between the renames.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from logging import Logger
from pathlib import Path


def temporary_path(path: str | os.PathLike, unique: bool = False) -> Path:
    """Return the hidden path at which a file or folder is written until it is complete.

    Args:
        path (str | PathLike): The final path.
        unique (bool): Whether to use a name that no other process uses, in case several
            processes write the same file. Otherwise the name is fixed, so that the next
            run replaces what a killed one has left. Defaults to False.

    Returns:
        Path: ``.NAME.part`` in the same folder, or ``.NAME.ID.part``.

    Example:
        >>> temporary_path('run/epoch_1.pth').as_posix()
        'run/.epoch_1.pth.part'
    """
    path = Path(path)
    middle = f'.{uuid.uuid4().hex}' if unique else ''
    return path.with_name(f'.{path.name}{middle}.part')


def leftovers(folder: str | os.PathLike) -> list[Path]:
    """Return the temporary files that killed processes have left in a folder.

    Call this only if no other process is writing to the folder.

    Args:
        folder (str | PathLike): The folder; its subfolders aren't searched.

    Returns:
        list[Path]: Sorted paths of files and folders.
    """
    return sorted(Path(folder).glob('.*.part'))


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike,
    check: Callable[[Path], object] | None = None,
    unique: bool = False,
) -> Iterator[Path]:
    """Write a file or folder that replaces ``path`` only once it is complete.

    Args:
        path (str | PathLike): The file or folder to write. An older version is
            replaced.
        check (Callable, optional): Function of the temporary path that is called once
            the content is on the disk. If it raises, the older version is kept.
        unique (bool): See :func:`temporary_path`. Defaults to False.

    Yields:
        Path: The temporary path, in the same folder, at which the block must create
        the file or folder.

    Raises:
        OSError: If it cannot be written. The temporary file or folder is removed, as
            after any exception that the block or ``check`` raises.

    Example:
        >>> with atomic_write('result.json') as part:
        ...     part.write_text('{}')
    """
    path, part = Path(path), temporary_path(path, unique)
    try:
        _remove_tree(part)  # left by a process that was killed
        yield part
        _sync_tree(part)
        if check is not None:
            check(part)
        _replace(part, path)
    except BaseException:  # Ctrl-C as well
        with contextlib.suppress(OSError):  # report the first error, not this one
            _remove_tree(part)
        raise
    sync(path.parent)


@contextlib.contextmanager
def atomic_write_group(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file or folder atomically, together with others that belong to it.

    Once all of them are complete, they are replaced one after the other, ``path`` last.
    A reader that finds a new ``path`` thus finds all files of the group.

    Args:
        path (str | PathLike): The main file or folder, for example ``model.xml``, to
            which ``model.bin`` belongs.

    Yields:
        Path: A path of the same name in an empty temporary folder. All files that the
        block leaves in that folder are moved to the folder of ``path``.

    Raises:
        OSError: If they cannot be written. The temporary folder is removed, as after
            any exception that the block raises.
    """
    path = Path(path)
    folder = temporary_path(path)
    try:
        _remove_tree(folder)  # left by a process that was killed
        folder.mkdir()
        yield folder / path.name
        _sync_tree(folder)
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            _replace(part, path.parent / part.name)
    finally:
        with contextlib.suppress(OSError):  # report the first error, not this one
            _remove_tree(folder)
    sync(path.parent)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, see :func:`atomic_write`.

    Args:
        path (str | PathLike): The file to write or replace.
        text (str): Content, which is encoded in UTF-8.
    """
    with atomic_write(path) as part:
        part.write_text(text, encoding='utf-8')


def sync(path: str | os.PathLike | int) -> None:
    """Wait until a file's content, or a folder's list of entries, is on the disk.

    Args:
        path (str | PathLike | int): A file, a folder, or an open file's descriptor.
    """
    if isinstance(path, int):
        os.fsync(path)
        return
    is_folder = os.path.isdir(path)
    if is_folder and os.name == 'nt':
        return  # Windows can't open folders
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: str | os.PathLike, logger: Logger) -> bool:
    """Delete a file, and log an error if that fails.

    Args:
        path (str | PathLike): The file, which need not exist.
        logger (Logger): Logger for the error.

    Returns:
        bool: Whether the file no longer exists.
    """
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error(f'{path} could not be deleted ({error}).')
        return False
    return True


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                sync(os.path.join(folder, name))
            sync(folder)
    else:
        sync(path)


def _replace(part: Path, path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        os.replace(part, path)
        return
    # os.replace replaces empty folders only.
    old = temporary_path(path.with_name(f'{path.name}.old'))
    _remove_tree(old)  # left by a process that was killed
    os.replace(path, old)
    try:
        os.replace(part, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
