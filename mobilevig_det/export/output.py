"""Files that are there whole, or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file (or folder) to, with what lies beside it.

    It is in a folder of its own next to ``path``, and has the same name. All
    that is in that folder moves to its place when the block ends well; else
    nothing stays, and what was there before is kept.

    Raises:
        UserError: If the place can't be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f'.{path.name}.', dir=path.parent
        ) as folder:
            yield Path(folder, path.name)
            for made in Path(folder).iterdir():
                _move(made, path.parent / made.name)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f'The disk of {path.parent} is full: {path} was not written.'
            ) from error
        raise UserError(f'{path} cannot be written: {error}') from error


def _move(source: Path, target: Path) -> None:
    if target.is_dir():  # only an empty one can be replaced
        shutil.rmtree(target)
    os.replace(source, target)
