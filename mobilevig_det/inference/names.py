"""Names of input images: read from lists and tar shards, printed, deduplicated."""

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
MAX_NAME_BYTES = 2**16  # Linux allows 4096.
SHARDS = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
# First bytes of compressed files: gzip, bzip2, xz, zstd.
COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


MIN_RECENT = 2**8  # Digests in a Python set, which takes about 80 bytes for each.


def is_address(path: str) -> bool:
    """Return whether a string is a URL, such as ``s3://bucket/image.jpg``."""
    return '://' in path


def inside(folder: str, name: str) -> str:
    """Return the path or URL of a file in a folder.

    Args:
        folder (str): The path or URL of the folder. A query of a URL is kept.
        name (str): The file name.
    """
    if not is_address(folder):
        return os.path.join(folder, name)
    path, mark, query = folder.partition('?')
    return f'{path.rstrip("/")}/{name}{mark}{query}'


def printable(name: str) -> str:
    r"""Return a name in which bytes that are not UTF-8 are escaped, as in ``\xff``."""
    return os.fsencode(name).decode(errors='backslashreplace')


class SkipReport:
    """Print and count the inputs that are skipped.

    Args:
        program (str): The program name at the start of each line.
        quiet (bool): Whether only to count, because another process prints. Defaults
            to False.

    Attributes:
        count (int): The number of skipped inputs.
    """

    def __init__(self, program: str, quiet: bool = False) -> None:
        self.program = program
        self.quiet = quiet
        self.count = 0
        self._lock = threading.Lock()

    def skip(self, name: str, reason: str) -> None:
        """Count and print a skipped input.

        Args:
            name (str): The name of the input.
            reason (str): Why it is skipped.
        """
        with self._lock:
            self.count += 1
        self.note(f'skipped {name}: {reason}')

    def note(self, message: str) -> None:
        """Print a message to standard error, above the progress bar."""
        if not self.quiet:
            tqdm.write(printable(f'{self.program}: {message}'), file=sys.stderr)


class RaiseOnSkip(SkipReport):
    """Raise a UserError instead of skipping an input, for the Python API."""

    def skip(self, name: str, reason: str) -> None:
        """Raise a UserError with the reason."""
        raise UserError(f'{name}: {reason}')


class ListError(ValueError):
    """A file is not a valid list of names; the message gives the reason."""


def is_list(name: str) -> bool:
    """Return whether a name is that of a list of paths or of standard input."""
    return name == PIPE or name.lower().endswith(LISTS)


def is_shard(name: str) -> bool:
    """Return whether a name is that of a tar file."""
    return name.lower().endswith(SHARDS)


def listed_names(path: str, report: SkipReport) -> Iterator[str]:
    """Yield the names in a list of paths while it is read.

    Names are separated by newlines, or by NUL bytes as ``find -print0`` writes them.
    Bytes that are not UTF-8 are preserved (``os.fsencode`` restores them). Blank lines,
    a byte order mark and Windows' carriage returns are dropped. Spaces around a name
    are kept, because they may belong to it.

    Args:
        path (str): The file, or ``-`` for standard input.
        report (SkipReport): Reports why the list can't be read completely.

    Yields:
        str: Each name.
    """
    where = 'standard input' if path == PIPE else path
    handle = None
    try:
        # Not sys.stdin: a thread that waits for input would hold its lock at exit.
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
    # Other files, such as devices, may be endless.
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISDIR(mode)


def count_lines(path: str) -> int | None:
    """Return the number of lines in a list, including blank lines.

    Args:
        path (str): The path of the list.

    Returns:
        int | None: The number of lines; None if the list is not a regular file or
        can't be read.
    """
    if not os.path.isfile(path):
        return None
    try:
        with open(path, 'rb') as file:
            chunks = iter(lambda: file.read(2**20), b'')
            return sum(max(chunk.count(b'\n'), chunk.count(b'\0')) for chunk in chunks)
    except OSError:
        return None  # listed_names() reports the reason.


def split_names(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Split a stream of bytes into names, as :func:`listed_names` describes.

    Args:
        read (Callable): Returns the next bytes, or b'' at the end.

    Yields:
        bytes: Each name.

    Raises:
        ListError: If the content is not a list of names.
    """
    separator = b''  # unknown until the first one is found
    chunk = read()
    if chunk.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise ListError(
            'it is UTF-16, as Windows PowerShell writes it: save it as UTF-8, for '
            'example by piping it into `Out-File -Encoding utf8 list.txt`'
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
                f'it is not a list of images: a line is longer than {MAX_NAME_BYTES} '
                'bytes; a list has one path on each line'
            )
        chunk = read()
        rest += chunk
    yield from _not_blank([rest])


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading, as a context manager.

    Pipes and devices are not opened: they may block or be endless.

    Args:
        path (str): The path of the file.

    Yields:
        BinaryIO: The open file.

    Raises:
        ImageFileError: If it is not a regular file, or can't be read.
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
    """Yield the images in a tar shard, for example of WebDataset.

    The shard is read sequentially, in constant memory.

    Args:
        path (str): The path of an uncompressed tar file.
        suffixes (tuple[str, ...]): Suffixes of the names of images.
        report (SkipReport): Reports why the shard can't be read completely.

    Yields:
        tuple[str, int, int]: The name ``shard.tar/key.jpg``, the position of the first
        byte, and the number of bytes of each image, in the order of the file.
    """
    found = False
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode='r:') as tar:
            size = os.fstat(file.fileno()).st_size
            while (member := tar.next()) is not None:
                # tarfile would keep the headers of all members in memory.
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
            reason += '; the images before that point were processed'
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

    With ten million strings, the probability of any collision is about 1 in 400,000.
    The digests are kept in a sorted array, with a small set of recent ones that is
    merged into it from time to time: 8 to 20 bytes for each string.

    Args:
        names (Iterable[str]): The first strings. Defaults to an empty tuple.
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
        """Add a string.

        Args:
            name (str): The string.

        Returns:
            bool: Whether it was not in the set before.
        """
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
        """All digests, sorted: uint64 of shape (N,)."""
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        return np.sort(np.concatenate([self._sorted, recent]))

    @classmethod
    def from_digests(cls, digests: np.ndarray) -> 'DigestSet':
        """Create a set from the :attr:`digests` of another one.

        Args:
            digests (np.ndarray): Sorted digests, uint64 of shape (N,).
        """
        result = cls()
        result._sorted = digests
        return result

    def _has(self, digest: int) -> bool:
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return place < len(self._sorted) and int(self._sorted[place]) == digest


def digest_of(name: str) -> int:
    """Return the 64-bit digest of a string, which may contain surrogates."""
    data = name.encode(errors='surrogatepass')
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')
