"""Addresses as ``s3://bucket/folder``: their file systems, and their images' names.

What is given is an address as pyarrow knows it, which may hold credentials and how to
reach a store: ``s3://KEY:SECRET@bucket/folder?endpoint_override=HOST:PORT``. Images'
names are as other tools of object stores print them, ``s3://bucket/folder/a b#1.jpg``:
nothing in them is escaped, and secrets stay out of rows and messages.
"""

import os
import os.path as osp
import re
import string
from functools import lru_cache
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from ..errors import UserError

SCHEMES = ('s3', 'gs', 'hdfs', 'file')
PARTS = re.compile(r'([^:/]+)://(?:([^/?]*)@)?([^/?]*)([^?]*)(\?.*)?', re.DOTALL)
# With a slash that wasn't escaped, as secrets have them, it has no such parts.
CREDENTIALS = re.compile(r'(?<=://)(?:[^/?]*|[^/@]*:.*)@', re.DOTALL)

# Each makes connections of its own, and asks for the bucket's region.
_from_uri = lru_cache(fs.FileSystem.from_uri)


class NoAddress(UserError):
    """What pyarrow doesn't know as an address; the message says why."""


def is_address(path: str) -> bool:
    return '://' in path


def inside(folder: str, name: str) -> str:
    """The path or address of a file in a folder."""
    if not is_address(folder):
        return osp.join(folder, name)
    path, mark, query = folder.partition('?')
    return f'{path.rstrip("/")}/{name}{mark}{query}'


def without_secrets(path: str) -> str:
    """A path or an address as messages have it."""
    if not is_address(path):
        return path
    return CREDENTIALS.sub('', path).partition('?')[0]


def find_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """A file system and the path in it, of a local path or an address.

    Raises:
        NoAddress: If pyarrow doesn't know such an address.
        UserError: If it can't be reached.
    """
    if not is_address(path):
        return fs.LocalFileSystem(), osp.abspath(path)
    shown = without_secrets(path)
    # What stands in no address in any sense; people write it nonetheless.
    escaped = quote(os.fsencode(path), safe=string.punctuation.replace('#', ''))
    try:
        if path.partition('://')[0] not in SCHEMES:
            raise pa.ArrowInvalid('another scheme')
        return _from_uri(escaped)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise NoAddress(
            f'{shown} is no address that pyarrow knows '
            f'({str(error).replace(escaped, shown)}): it takes local paths, s3://, '
            'gs:// and hdfs://. In addresses %, ? and, in secrets, / and @ are written '
            '%25, %3F, %2F and %40.'
        ) from error
    except OSError as error:
        raise UserError(f'{shown} cannot be reached: {error}') from error


def image_name(where: str, path: str) -> str:
    """The name of an image.

    Args:
        where (str): The address of a folder.
        path (str): Of the image, in the file system of the address.
    """
    scheme, _, host, _, _ = _parts(where)
    # Paths of object stores begin with the bucket, which is the host.
    return f'{scheme}://{host if path.startswith("/") else ""}{path}'


def find_image(name: str, where: str) -> tuple[fs.FileSystem, str]:
    """A file system and the path in it of an image by its name.

    Args:
        name (str): An address in which nothing is escaped.
        where (str): The path or address that the name was found at or in. Its
            credentials and query are used for all names of its scheme.

    Raises:
        UserError: As :func:`find_filesystem`.
    """
    scheme, _, rest = name.partition('://')
    host, _, path = rest.partition('/')
    user = query = None
    if is_address(where) and scheme == _parts(where)[0]:
        _, user, _, _, query = _parts(where)
    filesystem, root = find_filesystem(
        f'{scheme}://{f"{user}@" if user else ""}{host}/{query or ""}'
    )
    return filesystem, f'{root.rstrip("/")}/{path}'


def _parts(address: str) -> tuple[str, str | None, str, str, str | None]:
    """Scheme, credentials, host or bucket, path, and query with its mark."""
    found = PARTS.fullmatch(address)
    assert found, 'find_filesystem() knows it'
    scheme, user, host, path, query = found.groups()
    return scheme, user, host, path, query
