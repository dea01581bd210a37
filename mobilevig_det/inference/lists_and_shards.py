"""Names of images that come one by one: from text files, pipes and tar shards."""

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Protocol

LISTS = ('.txt', '.lst')
PIPE = '-'
CHUNK = 2**16
MAX_NAME_BYTES = 2**16  # Linux itself allows 4096
SHARDS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
# How compressed files begin, whatever they are called: gzip, bzip2, xz, zstd.
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


class Report(Protocol):
    """Told of what cannot be used; see :class:`.sources.SkipReport`."""

    def skip(self, name: str, reason: str) -> None: ...


class ListError(ValueError):
    """A file that cannot be a list of names; the message says why."""


def is_list(name: str) -> bool:
    return name == PIPE or name.lower().endswith(LISTS)


def is_shard(name: str) -> bool:
    return name.lower().endswith(SHARDS)


def listed_names(path: str, report: Report) -> Iterator[str]:
    """Yield the names in a list of paths, as they come.

    One a line, or with a NUL byte after each, as ``find -print0`` writes them.
    Bytes that aren't UTF-8 are kept (``os.fsencode`` gives them back). Blank lines,
    a byte order mark and the carriage returns of Windows are left out; spaces around
    a name, which may be its own, are not.

    Args:
        path (str): The file, or ``-`` for standard input.
        report (Report): Told why it cannot be read, or not to its end.
    """
    where = 'standard input' if path == PIPE else path
    handle = None
    try:
        # Not through sys.stdin, whose lock a waiting thread would hold to the end.
        handle = 0 if path == PIPE else os.open(path, os.O_RDONLY)
        empty = True
        for raw in split_names(lambda: os.read(handle, CHUNK)):
            empty = False
            yield os.fsdecode(raw)
        if empty:
            report.skip(where, 'no names are in this list')
    except FileNotFoundError:
        report.skip(where, 'there is no such file')
    except OSError as error:
        report.skip(where, f'cannot be read: {error.strerror}')
    except ListError as error:
        report.skip(where, str(error))
    finally:
        if handle:
            os.close(handle)


def count_lines(path: str) -> int | None:
    """Return the number of lines of a list that is a file: of names and blanks."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, 'rb') as file:
            chunks = iter(lambda: file.read(2**20), b'')
            return sum(max(chunk.count(b'\n'), chunk.count(b'\0')) for chunk in chunks)
    except OSError:
        return None  # listed_names reports why


def split_names(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield the names of :func:`listed_names` in what ``read`` returns, b'' at its end.

    Raises:
        ListError: If they can't be names.
    """
    separator = b''  # known once one is found
    chunk = read()
    if chunk.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise ListError(
            'it is UTF-16, as Windows PowerShell writes it: save it as UTF-8, for '
            'example by `… | Out-File -Encoding utf8 list.txt`'
        )
    rest = chunk.removeprefix(b'\xef\xbb\xbf')
    while chunk:
        if not separator:
            separator = next((end for end in (b'\0', b'\n') if end in rest), b'')
        if separator:
            *names, rest = rest.split(separator)
            yield from _not_blank(names)
        if len(rest) > MAX_NAME_BYTES:
            raise ListError(
                f'it is no list of images: a line is longer than {MAX_NAME_BYTES} '
                'bytes; such a file has one path on each line'
            )
        chunk = read()
        rest += chunk
    yield from _not_blank([rest])


def _not_blank(lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line.strip():
            yield line.removesuffix(b'\r')


def images_in_shard(
    path: str, suffixes: tuple[str, ...], report: Report
) -> Iterator[tuple[str, int, int]]:
    """Yield the members of a tar shard, as WebDataset's, that are images by name.

    Args:
        path (str): An uncompressed tar file.
        suffixes (tuple[str, ...]): Of images.
        report (Report): Told why it cannot be read, or not to its end.

    Yields:
        tuple[str, int, int]: ``shard.tar/key.jpg``, its first byte and its bytes, in
        the order of the file. Nothing is kept in memory.
    """
    found = False
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            report.skip(path, 'cannot be read: not a file')
            return
        with open(path, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            size = os.fstat(file.fileno()).st_size
            while (member := tar.next()) is not None:
                # Otherwise the headers of a shard would pile up.
                tar.members.clear()  # type: ignore[attr-defined]
                if not member.isreg() or member.issparse():
                    continue
                if member.size < 0 or member.offset_data + member.size > size:
                    raise tarfile.ReadError('unexpected end of data')
                if member.name.lower().endswith(suffixes):
                    found = True
                    name = f'{path}/{member.name.removeprefix("./")}'
                    yield name, member.offset_data, member.size
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError('its end-of-archive mark is missing')
    except FileNotFoundError:
        report.skip(path, 'there is no such file')
    except (tarfile.TarError, ValueError) as error:
        reason = f'the tar file is cut off or damaged ({error})'
        if found:
            reason += '; what is before that is done'
        elif _is_compressed(path):
            reason = 'the tar file is compressed: decompress it first'
        report.skip(path, reason)
    except OSError as error:
        report.skip(path, f'cannot be read: {error.strerror}')
    else:
        if not found:
            report.skip(path, 'no images are in this tar file')


def _is_compressed(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(6).startswith(COMPRESSED)
