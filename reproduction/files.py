"""The published files on this machine, and what identifies them."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from mobilevig_det.checkpoints.weights import PUBLISHED, SCHEME, find_file
from mobilevig_det.errors import UserError


class File(NamedTuple):
    """A file to measure: where it lies, its name, SHA-256 and size in bytes."""

    path: Path
    name: str
    sha256: str
    size: int

    def facts(self) -> dict[str, object]:
        """What the report says of it: not where it lies."""
        return dict(name=self.name, sha256=self.sha256, bytes=self.size)


def fetch(
    name: str, given: dict[str, str] | None = None, repository: str | None = None
) -> File:
    """Find or download a published file, and identify it.

    Args:
        name (str): One of the names of ``mobilevig://``.
        given (dict[str, str], optional): Files by such names, which go first.
        repository (str, optional): Address of a copy of the authors' repository.
            Defaults to None: as ``mobilevig://`` does.

    Raises:
        UserError: If the file is not to be had, or is not the published one.
    """
    published = PUBLISHED[name]
    called = Path(published.path or '').name
    if given and name in given:
        path = Path(given[name]).expanduser()
        called = path.name
    elif published.path is None:
        raise UserError(
            'the name of the published file is not known: give it with '
            f'--checkpoint {name}=/path/to/file'
        )
    elif repository is not None:
        path = find_file(f'{repository.rstrip("/")}/{published.path}')
    else:
        path = find_file(SCHEME + name)
    if not path.is_file():
        raise UserError(f'There is no checkpoint file {str(path)!r}.')
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    if published.sha256 not in (None, sha256):
        raise UserError(
            f'{called} is not the published file: its SHA-256 is {sha256}, and '
            f'should be {published.sha256}.'
        )
    return File(path, called, sha256, path.stat().st_size)
