"""Images in object stores and Parquet files.

URLs have the format of pyarrow and may contain credentials and an endpoint:
``s3://KEY:SECRET@bucket/folder?endpoint_override=HOST:PORT``. Names of images such as
``s3://bucket/folder/a b#1.jpg`` are not escaped, as in other tools for object stores.
Records and messages never contain credentials.
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
# Cached because each file system opens connections and looks up the bucket's region.
_from_uri = lru_cache(fs.FileSystem.from_uri)

# Names of the column with paths or names if there are several text columns.
NAME_COLUMNS = ('image', 'path', 'name', 'file_name')
ROWS_AT_ONCE = 32  # Encoded images to read from a Parquet file at a time.
# Name of an image, Parquet file (or None), index of the row group, index of the row.
Place = tuple[str, str | None, int, int]


class AddressError(UserError):
    """A string is not a URL that pyarrow supports; the message gives the reason."""


def find_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a local path or a URL.

    Args:
        path (str): The path or URL.

    Returns:
        tuple[FileSystem, str]: The file system and the path in it.

    Raises:
        AddressError: If pyarrow does not support the URL.
        UserError: If the object store can't be reached.
    """
    if not is_address(path):
        return fs.LocalFileSystem(), osp.abspath(path)
    shown = without_secrets(path)
    # Escape characters, such as spaces, that are invalid in URLs but common in names.
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
    """Return the name of an image in a folder of an object store.

    Args:
        where (str): The URL of the folder.
        path (str): The path of the image in the file system of the URL.

    Returns:
        str: The URL of the image, without credentials, query and escapes.
    """
    scheme, _, host, _, _ = _parts(where)
    # Paths of object stores begin with the bucket, which is the host.
    return f'{scheme}://{host if path.startswith("/") else ""}{path}'


def find_image(name: str, where: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an image and the path in it.

    Args:
        name (str): The name of the image: a URL without escapes.
        where (str): The path or URL of the folder, list or table that contains the
            name. Its credentials and query are used if the scheme is the same.

    Returns:
        tuple[FileSystem, str]: The file system and the path in it.

    Raises:
        UserError: If the URL is not supported or can't be reached.
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
    """Split into scheme, credentials, host or bucket, path, and query with ``?``."""
    found = PARTS.fullmatch(address)
    assert found, 'find_filesystem() accepted it'
    scheme, user, host, path, query = found.groups()
    return scheme, user, host, path, query


def images_at(where: str, suffixes: tuple[str, ...]) -> Iterator[Place]:
    """Yield the images in a folder or a list of an object store, or in Parquet files.

    Args:
        where (str): The URL of a folder, a list of names or a Parquet file, or the path
            of a Parquet file. Parquet files have either a column of paths, or a column
            of names and a column with the bytes of the image files.
        suffixes (tuple[str, ...]): Suffixes of the images in a folder.

    Yields:
        tuple[str, str | None, int, int]: The name of the image; for images inside a
        Parquet file also the file, the index of the row group, and the row in it.

    Raises:
        UserError: If ``where`` can't be read, or its columns are ambiguous.
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
    """Find the columns with the names and the bytes of images.

    Args:
        where (str): The path or URL of the table, for the error message.
        schema (pyarrow.Schema): The schema of the table.

    Returns:
        tuple[str, str | None]: The column of names or paths, and the column with the
        bytes of the image files, if there is one.

    Raises:
        UserError: If the columns are ambiguous.
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
    """Read the encoded bytes of an image.

    Args:
        name (str): The name or URL of the image.
        file (str | None): The Parquet file that contains the image.
        group (int): The index of the row group in the Parquet file.
        row (int): The index of the row in the row group.
        where (str): The path or URL that listed the image; its credentials are used.

    Raises:
        ImageFileError: If this image can't be read.
        UserError: If the object store can't be reached, so that all images would fail.
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
        _row_group.cache_clear()  # drops failed connections
        if isinstance(error, pa.ArrowInvalid) or not is_address(where or name):
            raise ImageFileError(f'cannot be read: {error}') from None
        raise UserError(
            f'{without_secrets(file or name)} cannot be read: '
            f'{hide_secrets(str(error), where)}. Use --resume '
            'when it can be read again.'
        ) from error


class _RowGroup:
    """Reader of a Parquet row group, for images in approximately sequential order."""

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
