"""Names of images that come one by one: from a text file, or through a pipe."""

import os
from collections.abc import Callable, Iterator

from .input_files import Skipped

LISTS = ('.txt', '.lst')
PIPE = '-'
CHUNK = 2**16
LONGEST = 2**16  # bytes of a name; the system's own limit is 4096


def is_list(name: str) -> bool:
    return name == PIPE or name.lower().endswith(LISTS)


class NoList(ValueError):
    """What can't be a list of names; the message says why."""


def listed_names(path: str, skipped: Skipped) -> Iterator[str]:
    """The names in a list of paths, as they come.

    One a line, or with a NUL byte after each, as ``find -print0`` writes them.
    Bytes that aren't UTF-8 are kept (``os.fsencode`` gives them back). Blank lines,
    a byte order mark and the carriage returns of Windows are left out; spaces around
    a name, which may be its own, are not.

    Args:
        path (str): The file, or ``-`` for standard input.
        skipped (Skipped): Is told why it can't be read, or not to its end.
    """
    where = 'standard input' if path == PIPE else path
    number = None
    try:
        # Past sys.stdin, whose lock a thread that waits would hold to the end.
        number = 0 if path == PIPE else os.open(path, os.O_RDONLY)
        empty = True
        for raw in split_names(lambda: os.read(number, CHUNK)):
            empty = False
            yield os.fsdecode(raw)
        if empty:
            skipped(where, 'no names are in this list')
    except FileNotFoundError:
        skipped(where, 'there is no such file')
    except OSError as error:
        skipped(where, f'cannot be read: {error.strerror}')
    except NoList as error:
        skipped(where, str(error))
    finally:
        if number:
            os.close(number)


def count_lines(path: str) -> int | None:
    """Of a list that is a file: as many names, but for blanks."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, 'rb') as file:
            chunks = iter(lambda: file.read(2**20), b'')
            return sum(max(chunk.count(b'\n'), chunk.count(b'\0')) for chunk in chunks)
    except OSError:
        return None  # who wants its names is told why


def split_names(read: Callable[[], bytes]) -> Iterator[bytes]:
    """The names of :func:`listed_names` in what ``read`` gives, b'' at its end.

    Raises:
        NoList: If they can't be names.
    """
    end = b''  # of each name, once it is known
    chunk = read()
    if chunk.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise NoList(
            'it is UTF-16, as Windows PowerShell writes it: save it as UTF-8, for '
            'example by `… | Out-File -Encoding utf8 list.txt`'
        )
    rest = chunk.removeprefix(b'\xef\xbb\xbf')
    while chunk:
        end = end or _end_of_names(rest)
        if end:
            *names, rest = rest.split(end)
            yield from _names(names)
        if len(rest) > LONGEST:
            raise NoList(
                f'it is no list of images, with a line of over {LONGEST} bytes: such a '
                'file has one path on each line'
            )
        chunk = read()
        rest += chunk
    yield from _names([rest])


def _end_of_names(data: bytes) -> bytes:
    return next((end for end in (b'\0', b'\n') if end in data), b'')


def _names(lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line.strip():
            yield line.removesuffix(b'\r')
