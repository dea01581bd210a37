"""Rows in files that are only appended to: one line of JSON each, a file a process.

A kill leaves at most the beginning of a line at the end of a file; what reads them
stops there, and what goes on with them cuts it off first.
"""

import contextlib
import json
import os
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# A power cut may take what is younger; a kill takes nothing.
SYNC_SECONDS = 5.0


class RowWriter:
    """Appends rows to a file; each is the system's before the next is made.

    Args:
        path (str): The file. It is made, or gone on with.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, 'ab', buffering=0)
        self._synced = time.monotonic()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row.

        Raises:
            OSError: If the disk is full, or fails; no half of the row is left where
                that can be helped.
        """
        line = memoryview(json.dumps(row).encode() + b'\n')
        start = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except BaseException as error:  # a Ctrl-C too
            if line:
                with contextlib.suppress(OSError):
                    self._file.truncate(start)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, self.path) from error
            raise

    def __enter__(self) -> 'RowWriter':
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def whole_rows(path: str) -> Iterator[tuple[int, int, dict]]:
    """Start, end and content of each line, up to the first that is not whole."""
    start = 0
    with open(path, 'rb') as file:
        for line in file:
            row = None
            if line.endswith(b'\n'):
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
            if not isinstance(row, dict):
                return
            yield start, start + len(line), row
            start += len(line)


class SortedRows:
    """The rows of several files in the order of the inputs, read one by one as they
    are asked for; 20 bytes of memory for each.

    Args:
        paths (Sequence[str]): The files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._bases: list[int] = []  # where each would begin if they were one file
        places, frames, starts = array('q'), array('i'), array('q')
        base = 0
        for path in paths:
            self._bases.append(base)
            rows = tqdm(whole_rows(path), f'Reading {path}', unit='row', delay=2)
            for start, _, row in rows:
                places.append(row['place'])
                frames.append(row.get('frame', row.get('frames', 0)))
                starts.append(base + start)
            base += os.path.getsize(path)
        order = np.lexsort((np.asarray(frames), np.asarray(places)))
        self._starts = np.asarray(starts)[order]

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[dict]:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, 'rb')) for path in self._paths]
            starts = tqdm(self._starts, 'Writing the result', unit='row', delay=2)
            for start in map(int, starts):
                number = bisect_right(self._bases, start) - 1
                files[number].seek(start - self._bases[number])
                yield json.loads(files[number].readline())
