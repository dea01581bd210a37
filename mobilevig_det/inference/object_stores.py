"""Images in object stores and in Parquet.

An address is one that pyarrow knows. It may hold credentials and the way to a store:
``s3://KEY:SECRET@bucket/folder?endpoint_override=HOST:PORT``. Names of images are as
other tools of object stores print them, ``s3://bucket/folder/a b#1.jpg``: nothing in
them is escaped, and secrets stay out of records and messages.
"""

import os
import os.path as osp
import re
import string
import threading
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..datasets import ImageFileError
from ..errors import UserError
from ..paths import has_credentials, hide_secrets, without_secrets
from .names import CHUNK, LISTS, DigestSet, ListError, is_address, is_list, split_names

SCHEMES = ('s3', 'gs', 'hdfs', 'file')
PARTS = re.compile(r'([^:/]+)://(?:([^/?]*)@)?([^/?]*)([^?]*)(\?.*)?', re.DOTALL)
# Each makes connections of its own, and asks for the bucket's region.
_from_uri = lru_cache(fs.FileSystem.from_uri)

# Paths or names are in one of these columns if several hold text.
NAME_COLUMNS = ('image', 'path', 'name', 'file_name')
ROWS_AT_ONCE = 32  # encoded images of a Parquet file in memory
# The name of an image; in Parquet also the file, the row group, and the row in it.
Place = tuple[str, str | None, int, int]


class AddressError(UserError):
    """A string that pyarrow doesn't know as an address; the message says why."""


def find_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a local path or an address, and the path in it.

    Raises:
        AddressError: If pyarrow doesn't know such an address.
        UserError: If it can't be reached.
    """
    if not is_address(path):
        return fs.LocalFileSystem(), osp.abspath(path)
    shown = without_secrets(path)
    # Characters that addresses may not contain, and that people use nonetheless.
    escaped = quote(os.fsencode(path), safe=string.punctuation.replace('#', ''))
    try:
        if path.partition('://')[0] not in SCHEMES:
            raise pa.ArrowInvalid('another scheme')
        return _from_uri(escaped)
    except (pa.ArrowInvalid, UnicodeError) as error:
        reason = hide_secrets(str(error).replace(escaped, path), path)
        raise AddressError(
            f'{shown} is no address that pyarrow knows ({reason}): it takes local '
            'paths, s3://, gs:// and hdfs://. In addresses %, ? and, in secrets, / and '
            '@ are written %25, %3F, %2F and %40.'
        ) from error
    except OSError as error:
        reason = hide_secrets(str(error), path)
        raise UserError(f'{shown} cannot be reached: {reason}') from None


def image_name(where: str, path: str) -> str:
    """Return the name of an image in a folder.

    Args:
        where (str): The address of a folder.
        path (str): Of the image, in the file system of the address.
    """
    scheme, _, host, _, _ = _parts(where)
    # Paths of object stores begin with the bucket, which is the host.
    return f'{scheme}://{host if path.startswith("/") else ""}{path}'


def find_image(name: str, where: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an image by its name, and the path in it.

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
    assert found, 'find_filesystem() accepted it'
    scheme, user, host, path, query = found.groups()
    return scheme, user, host, path, query


def images_at(where: str, suffixes: tuple[str, ...]) -> Iterator[Place]:
    """Yield the images of a folder or a list in an object store, or of Parquet.

    Args:
        where (str): The address of a folder, a list of names or Parquet files, or the
            path of a Parquet file. Parquet has a column of paths, or one of names and
            one of bytes, the images' files.
        suffixes (tuple[str, ...]): Of the images in a folder.

    Raises:
        UserError: If it cannot be read, or its columns are ambiguous.
    """
    shown = without_secrets(where)
    try:
        for image in _find(where, shown, suffixes):
            if has_credentials(image[0]):
                raise UserError(
                    f'{shown} has addresses with credentials, which rows would show. '
                    'Leave them out: those of the address of INPUT are used, or '
                    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.'
                )
            yield image
    except (OSError, UnicodeError, pa.ArrowException, ListError) as error:
        reason = hide_secrets(str(error), where)
        raise UserError(f'{shown} cannot be read: {reason}') from None


def _find(where: str, shown: str, suffixes: tuple[str, ...]) -> Iterator[Place]:
    filesystem, path = find_filesystem(where)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f'There is no {shown}.')
    files = [path]
    if info.type == fs.FileType.Directory:
        found = filesystem.get_file_info(fs.FileSelector(path))
        files = sorted(f.path for f in found if f.type == fs.FileType.File)
    tables = [file for file in files if file.endswith('.parquet')]
    if tables:
        yield from _in_parquet(shown, filesystem, tables)
    elif info.type == fs.FileType.Directory:
        for file in files:
            if file.lower().endswith(suffixes):
                yield image_name(where, file), None, 0, 0
    elif is_list(path):
        with filesystem.open_input_stream(path) as stream:
            for name in split_names(lambda: stream.read(CHUNK)):
                yield os.fsdecode(name), None, 0, 0
    else:
        raise UserError(
            f'{shown} is neither a folder, nor a list of paths ({" or ".join(LISTS)}), '
            'nor Parquet.'
        )


def _in_parquet(
    shown: str, filesystem: fs.FileSystem, tables: list[str]
) -> Iterator[Place]:
    schema = pq.read_schema(tables[0], filesystem=filesystem)
    name_column, bytes_column = image_columns(shown, schema)
    seen = DigestSet()
    for path in tables:
        with filesystem.open_input_file(path) as opened:
            file = pq.ParquetFile(opened)
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, [name_column]).column(0)
                if column.null_count:
                    raise UserError(f'{shown}: {column.null_count} names are empty.')
                for row, value in enumerate(column.cast(pa.binary())):
                    name = os.fsdecode(value.as_py())
                    if bytes_column is None:
                        yield name, None, 0, 0
                    elif seen.add(name):
                        yield name, path, group, row
                    else:
                        raise UserError(
                            f'{shown}: several images have the same name, for example '
                            f'{name}. Records are told apart by name: give each image '
                            'a name of its own.'
                        )


def image_columns(where: str, schema: pa.Schema) -> tuple[str, str | None]:
    """Return the column of names or paths, and that of the files' bytes, if any.

    Raises:
        UserError: If that is ambiguous.
    """
    types = pa.types
    texts = [
        f.name
        for f in schema
        if types.is_string(f.type) or types.is_large_string(f.type)
    ]
    binaries = [
        f.name
        for f in schema
        if types.is_binary(f.type) or types.is_large_binary(f.type)
    ]
    known = [name for name in NAME_COLUMNS if name in texts]
    names = known or texts
    if not names or (len(names) > 1 and not known) or len(binaries) > 1:
        raise UserError(
            f'{where} has the columns {", ".join(schema.names)}: it needs one of text, '
            f'the paths or names (one of {", ".join(NAME_COLUMNS)} if there are '
            "several), and at most one of bytes, the images' files."
        )
    return names[0], binaries[0] if binaries else None


def read_bytes(name: str, file: str | None, group: int, row: int, where: str) -> bytes:
    """Read the encoded file of an image.

    Args:
        name (str): Its name, or its address.
        file (str | None): The Parquet file that holds it.
        group (int): The row group there.
        row (int): The row in the row group.
        where (str): What it was found at; its credentials are used.

    Raises:
        ImageFileError: If there is no such file.
        UserError: If the store cannot be reached: no other image will be read either.
    """
    try:
        if file is not None:
            return _row_group(where, file, group).read(row)
        filesystem, path = find_image(name, where)
        with filesystem.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        raise ImageFileError('there is no such file') from None
    except UnicodeError:
        raise ImageFileError('its name is not UTF-8, as addresses are') from None
    except AddressError as error:
        raise ImageFileError(str(error)) from None
    except (OSError, pa.ArrowException) as error:
        _row_group.cache_clear()  # of connections that have failed
        if isinstance(error, pa.ArrowInvalid) or not is_address(where or name):
            raise ImageFileError(f'cannot be read: {error}') from None
        raise UserError(
            f'{without_secrets(file or name)} cannot be read: '
            f'{hide_secrets(str(error), where)}. Go on with '
            '--resume when it can.'
        ) from error


class _RowGroup:
    """Reads the images of a Parquet row group in about their order, a few at a time."""

    def __init__(self, where: str, path: str, group: int) -> None:
        self._open = (find_filesystem(where)[0], path, group)
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        filesystem, path, group = self._open
        file = pq.ParquetFile(filesystem.open_input_file(path))
        _, column = image_columns(path, file.schema_arrow)
        self._batches = file.iter_batches(ROWS_AT_ONCE, [group], columns=[column])
        self._recent: deque[pa.Array] = deque(maxlen=4)  # threads read out of order
        self._end = 0  # rows read so far

    def read(self, row: int) -> bytes:
        with self._lock:
            if row < self._end - sum(map(len, self._recent)):
                self._start()
            while row >= self._end:
                self._recent.append(next(self._batches).column(0))
                self._end += len(self._recent[-1])
            start = self._end
            for batch in reversed(self._recent):
                start -= len(batch)
                if row >= start:
                    return batch[row - start].as_py() or b''
            raise AssertionError('unreachable')


_row_group = lru_cache(4)(_RowGroup)
