"""Names of images: in lists and tar shards, in messages, and which were seen."""

import contextlib
import hashlib
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from ..datasets import ImageFileError
from ..errors import UserError

LISTS = ('.txt', '.lst')
PIPE = '-'
CHUNK = 2**16
MAX_NAME_BYTES = 2**16  # Linux itself allows 4096
SHARDS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
# How compressed files begin, whatever they are called: gzip, bzip2, xz, zstd.
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


MIN_RECENT = 2**8  # digests in a Python set, which takes some 80 bytes each


def is_address(path: str) -> bool:
    return '://' in path


def inside(folder: str, name: str) -> str:
    """Return the path or address of a file in a folder."""
    if not is_address(folder):
        return os.path.join(folder, name)
    path, mark, query = folder.partition('?')
    return f'{path.rstrip("/")}/{name}{mark}{query}'


def printable(name: str) -> str:
    """Return a name in which bytes that are not UTF-8 are written ``\\xff``."""
    return os.fsencode(name).decode(errors='backslashreplace')


class SkipReport:
    """Prints a line for each input that is skipped, and counts them.

    Args:
        program (str): The name at the start of each line.
        quiet (bool): Only count, since another process prints. Defaults to False.
    """

    def __init__(self, program: str, quiet: bool = False) -> None:
        self.program = program
        self.quiet = quiet
        self.count = 0
        self._lock = threading.Lock()

    def skip(self, name: str, reason: str) -> None:
        with self._lock:
            self.count += 1
        self.note(f'skipped {name}: {reason}')

    def note(self, message: str) -> None:
        if not self.quiet:
            tqdm.write(printable(f'{self.program}: {message}'), file=sys.stderr)


class RaiseOnSkip(SkipReport):
    """For the Python API: an input that is no image raises a UserError."""

    def skip(self, name: str, reason: str) -> None:
        raise UserError(f'{name}: {reason}')


class ListError(ValueError):
    """A file that cannot be a list of names; the message says why."""


def is_list(name: str) -> bool:
    return name == PIPE or name.lower().endswith(LISTS)


def is_shard(name: str) -> bool:
    return name.lower().endswith(SHARDS)


def listed_names(path: str, report: SkipReport) -> Iterator[str]:
    """Yield the names in a list of paths, as they come.

    One a line, or with a NUL byte after each, as ``find -print0`` writes them.
    Bytes that aren't UTF-8 are kept (``os.fsencode`` gives them back). Blank lines,
    a byte order mark and the carriage returns of Windows are left out; spaces around
    a name, which may be its own, are not.

    Args:
        path (str): The file, or ``-`` for standard input.
        report (SkipReport): Told why it cannot be read, or not to its end.
    """
    where = 'standard input' if path == PIPE else path
    handle = None
    try:
        # Not through sys.stdin, whose lock a waiting thread would hold to the end.
        if path != PIPE and not _may_be_list(os.stat(path).st_mode):
            raise ListError('it is neither a file nor a pipe')
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


def _may_be_list(mode: int) -> bool:
    # Others, as devices, may have no end.
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISDIR(mode)


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


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises:
        ImageFileError: If it is no regular file, or can't be read. A pipe or a device
            is not even opened: it may have no end, or wait for somebody.
    """
    if '\0' in path:
        raise ImageFileError('its name has a NUL byte in it')
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = 'Is a directory' if stat.S_ISDIR(mode) else 'not a file'
            raise ImageFileError(f'cannot be read: {kind}')
        with open(path, 'rb') as file:
            yield file
    except FileNotFoundError:
        raise ImageFileError('there is no such file') from None
    except OSError as error:
        raise ImageFileError(f'cannot be read: {error.strerror}') from None


def _not_blank(lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line.strip():
            yield line.removesuffix(b'\r')


def images_in_shard(
    path: str, suffixes: tuple[str, ...], report: SkipReport
) -> Iterator[tuple[str, int, int]]:
    """Yield the members of a tar shard, as WebDataset's, that are images by name.

    Args:
        path (str): An uncompressed tar file.
        suffixes (tuple[str, ...]): Of images.
        report (SkipReport): Told why it cannot be read, or not to its end.

    Yields:
        tuple[str, int, int]: ``shard.tar/key.jpg``, its first byte and its bytes, in
        the order of the file. Nothing is kept in memory.
    """
    found = False
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode='r:') as tar:
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
    except ImageFileError as error:
        report.skip(path, str(error))
    except (tarfile.TarError, ValueError) as error:
        reason = f'the tar file is cut off or damaged ({error})'
        if found:
            reason += '; what is before that is done'
        elif _is_compressed(path):
            reason = 'the tar file is compressed: decompress it first'
        report.skip(path, reason)
    else:
        if not found:
            report.skip(path, 'no images are in this tar file')


def _is_compressed(path: str) -> bool:
    with open(path, 'rb') as file:
        return file.read(6).startswith(COMPRESSED)


class DigestSet:
    """Set of strings that stores a 64-bit digest of each instead of the string.

    Two of ten million names collide once in some 400,000 such sets. Digests are a
    sorted array and, until they are merged, a small set: 8 to 20 bytes each.

    Args:
        names (Iterable[str]): The first names. Defaults to ().
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._sorted = np.zeros(0, np.uint64)
        self._recent: set[int] = set()
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, name: object) -> bool:
        return self._has(digest_of(str(name)))

    def add(self, name: str) -> bool:
        """Add a name; return whether it is new."""
        digest = digest_of(name)
        if self._has(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) > max(MIN_RECENT, len(self._sorted) // 16):
            self._sorted = self.digests
            self._recent = set()
        return True

    @property
    def digests(self) -> np.ndarray:
        """All digests, sorted; uint64."""
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        return np.sort(np.concatenate([self._sorted, recent]))

    @classmethod
    def from_digests(cls, digests: np.ndarray) -> 'DigestSet':
        """Return the set of sorted :attr:`digests`."""
        result = cls()
        result._sorted = digests
        return result

    def _has(self, digest: int) -> bool:
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return place < len(self._sorted) and int(self._sorted[place]) == digest


def digest_of(name: str) -> int:
    """Return the 64-bit digest of a name, which may have surrogates."""
    data = name.encode(errors='surrogatepass')
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')
