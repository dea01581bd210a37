"""Stores of prediction records, from which a run can be resumed.

A store is the folder ``rows/`` of a run. It contains the records, as JSON lines (local
and distributed executors) or Parquet (Ray executor), and their ``settings.json``.
"""

import contextlib
import glob
import json
import os
import os.path as osp
import time
from array import array
from collections.abc import Callable, Container, Iterator, Mapping
from functools import lru_cache
from typing import Any, BinaryIO, TextIO

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write, atomic_write_text
from .names import DigestSet, digest_of

SETTINGS = 'settings.json'
# A power failure may lose the records of the last seconds; a killed process loses none.
SYNC_SECONDS = 5.0


class RecordStore:
    """Base class of the stores of a run's records.

    Attributes:
        path (str): The folder, as it is shown in messages.
        errors (int): Number of records of earlier runs with an error, which is set by
            :meth:`begin`.
    """

    path: str
    errors = 0

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Start or resume a run.

        The records of a finished run are replaced, those of an unfinished run never.

        Args:
            settings (Mapping): What determines the records, see :mod:`.run`.
            resume (bool): Whether to keep the records of the earlier run.

        Raises:
            UserError: If records of an unfinished run would be overwritten, or were
                made with other settings.
        """
        earlier = self._settings()
        has_records = self._has_records()
        if has_records and earlier is None:
            raise UserError(
                f'{self.path} has rows but no {SETTINGS} with the settings of their '
                'run: choose another --out-dir, or delete that folder.'
            )
        if has_records and not resume and earlier and not earlier.get('finished'):
            raise UserError(
                f'{self.path} has the rows of an unfinished run: --resume resumes it. '
                'To start over, delete that folder, or choose another --out-dir.'
            )
        if has_records and resume and earlier is not None:
            check_settings(self.path, earlier, settings)
            self._open(settings)
        else:
            self._clear()
        self._write_settings(json.dumps(dict(settings, finished=False), indent=1))

    def finish(self) -> None:
        """Mark the run as finished: every input has its record."""
        settings = dict(self._settings() or {}, finished=True)
        self._write_settings(json.dumps(settings, indent=1))

    def records(self) -> 'SortedRecords':
        """Return all records, in the order of the inputs."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any] | None:
        """Return the settings of an earlier run, or None if missing or damaged."""
        try:
            settings = json.loads(self._read_settings())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return settings if isinstance(settings, dict) else None

    def _open(self, settings: Mapping[str, Any]) -> None:
        """Read the names of the records, and remove incomplete records."""
        raise NotImplementedError

    _has_records: Callable[[], bool]
    _clear: Callable[[], None]
    _read_settings: Callable[[], bytes]
    _write_settings: Callable[[str], None]


class SortedRecords:
    """Iterable over records in the order of the inputs, which are read on demand.

    Args:
        locations (np.ndarray): Location of each record, int64 of shape (N,).
        read (Callable): Returns the record at a location.
    """

    def __init__(
        self, locations: np.ndarray, read: Callable[[int], dict[str, Any]]
    ) -> None:
        self._locations = locations
        self._read = read

    def __len__(self) -> int:
        return len(self._locations)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for location in tqdm(self._locations, 'Writing', unit='row', delay=2):
            yield self._read(int(location))


class JsonLinesStore(RecordStore):
    """Store of JSON lines: one file ``OUT_DIR/rows/RANK.jsonl`` for each process.

    Files are only appended to. A killed process leaves at most one incomplete line at
    the end of its file: readers stop there, and a resumed run removes it. Used as a
    context manager, the store locks the folder against other runs.

    Args:
        out_dir (str): The output folder of the run.
    """

    def __init__(self, out_dir: str) -> None:
        self.path = osp.join(out_dir, 'rows')
        self._settings_path = osp.join(self.path, SETTINGS)
        self._done_path = osp.join(self.path, '.done.npy')
        self._lock: TextIO | None = None

    def __enter__(self) -> 'JsonLinesStore':
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def files(self) -> list[str]:
        """Paths of the files, in the order of the ranks."""
        files = glob.glob(osp.join(glob.escape(self.path), '*.jsonl'))
        return sorted(files, key=lambda path: (len(path), path))

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Lock the folder, and start or resume a run; see :meth:`RecordStore.begin`."""
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'--out-dir cannot be written ({error}): choose another one.'
            ) from error
        self._acquire_lock()
        self._done = DigestSet()
        super().begin(settings, resume)
        with atomic_write(self._done_path) as part, part.open('wb') as file:
            np.save(file, self._done.digests)

    def done(self) -> DigestSet:
        """Return the names with a record; any process may call it after ``begin``."""
        return DigestSet.from_digests(np.load(self._done_path))

    def writer(self, rank: int) -> 'JsonLinesWriter':
        """Return a writer that appends to the file of a process."""
        return JsonLinesWriter(osp.join(self.path, f'{rank}.jsonl'))

    def records(self) -> SortedRecords:
        """Return the records of all files, in the order of the inputs."""
        return sorted_lines(self.files)

    def finish(self) -> None:
        """Mark the run as finished, and remove the index of names."""
        super().finish()
        os.remove(self._done_path)

    def _acquire_lock(self) -> None:
        """Prevent two runs from resuming the same records."""
        try:
            import fcntl
        except ImportError:  # not available on Windows
            return
        self._lock = open(osp.join(self.path, '.lock'), 'w')
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f'Another run is writing into {self.path}: wait for its end, or '
                'choose another --out-dir.'
            ) from None
        except OSError:
            pass  # a file system without locks

    def _has_records(self) -> bool:
        return any(osp.getsize(path) for path in self.files)

    def _open(self, settings: Mapping[str, Any]) -> None:
        with tqdm(desc='Reading the rows so far', unit='row', delay=2) as progress:
            for path in self.files:
                complete = 0
                for _, end, record in complete_lines(path, settings.get('categories')):
                    self._done.add(record['image'])
                    self.errors += record['error'] is not None
                    progress.update()
                    complete = end
                os.truncate(path, complete)

    def _clear(self) -> None:
        for path in self.files:
            os.remove(path)

    def _read_settings(self) -> bytes:
        with open(self._settings_path, 'rb') as file:
            return file.read()

    def _write_settings(self, text: str) -> None:
        atomic_write_text(self._settings_path, text)


class JsonLinesWriter:
    """Writer that appends records to a file, without a buffer in this process.

    Args:
        path (str): The file, which is created if it does not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, 'ab', buffering=0)
        self._synced = time.monotonic()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record.

        Raises:
            OSError: If the disk is full or fails. An incomplete record is removed, if
                possible.
        """
        line = memoryview(json.dumps(record).encode() + b'\n')
        start = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except BaseException as error:  # Ctrl-C as well
            if line:
                with contextlib.suppress(OSError):
                    self._file.truncate(start)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, self.path) from error
            raise

    def __enter__(self) -> 'JsonLinesWriter':
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def complete_lines(
    path: str, categories: Container[str] | None = None
) -> Iterator[tuple[int, int, dict]]:
    """Yield start, end and record of each line, up to the first invalid line.

    Args:
        path (str): The file.
        categories (Container[str], optional): Valid category ids, as strings. Defaults
            to None, which accepts any id.
    """
    start = 0
    with open(path, 'rb') as file:
        for line in file:
            try:
                record: Any = json.loads(line) if line.endswith(b'\n') else None
                if not _is_record(record, categories):
                    return
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                return
            yield start, start + len(line), record
            start += len(line)


def _is_record(value: Any, categories: Container[str] | None) -> bool:
    """Return whether parsed JSON is a record; invalid values may raise an error."""
    numbers = [value['place'], value.get('frame', 0), value.get('frames', 0)]
    sizes = value['height'], value['width']
    labels, masks = value['labels'], value['masks']
    one_each = [
        value['scores'],
        *(value[key] for key in ('boxes', 'masks') if value[key]),
    ]
    return (
        isinstance(value['image'], str)
        and isinstance(value['error'], str | None)
        and all(type(number) is int and 0 <= number < 2**31 for number in numbers)
        and all(size is None or type(size) is int for size in sizes)
        and all(isinstance(items, list) for items in (labels, *one_each))
        and all(len(items) == len(labels) for items in one_each)
        and all(type(label) is int for label in labels)
        and (categories is None or all(str(label) in categories for label in labels))
        and all(isinstance(score, float | int) for score in value['scores'])
        and all(
            len(box) == 4 and all(isinstance(side, float | int) for side in box)
            for box in value['boxes']
        )
        and all(
            mask['size'] == [*sizes] and mask['counts'].isascii()
            for mask in masks or ()
        )
    )


def sorted_lines(paths: list[str]) -> SortedRecords:
    """Return the records of several JSON lines files, with 28 bytes of memory for each.

    If several records have the same name, which can happen on a file system without
    locks, the first one is used.
    """
    places, frames, starts, names = array('q'), array('i'), array('q'), array('Q')
    bases = [0]  # start of each file in the concatenation of all files
    for path in paths:
        lines = tqdm(complete_lines(path), f'Reading {path}', unit='row', delay=2)
        for start, _, record in lines:
            places.append(record['place'])
            frames.append(record.get('frame', record.get('frames', 0)))
            starts.append(bases[-1] + start)
            names.append(digest_of(record['image']))
        bases.append(bases[-1] + osp.getsize(path))
    first = np.sort(np.unique(np.asarray(names), return_index=True)[1])
    order = np.lexsort((np.asarray(frames)[first], np.asarray(places)[first]))

    @lru_cache(128)  # keeps files open
    def opened(number: int) -> BinaryIO:
        return open(paths[number], 'rb')

    def read(start: int) -> dict[str, Any]:
        number = int(np.searchsorted(bases, start, 'right')) - 1
        file = opened(number)
        file.seek(start - bases[number])
        return json.loads(file.readline())

    return SortedRecords(np.asarray(starts)[first][order], read)


def check_settings(
    folder: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Check that the settings of a resumed run have not changed.

    Args:
        folder (str): The folder of the records, for the error message.
        before (Mapping): The settings of the earlier run.
        now (Mapping): The settings of this run.

    Raises:
        UserError: If they differ. The message lists the first differences.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    old.pop('finished', None)
    differences = [
        f'{key} was {_short(old, key)} and is {_short(new, key)}'
        for key in (*new, *(key for key in old if key not in new))
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
    if differences:
        more = '; …' if len(differences) > 3 else ''
        raise UserError(
            f'{folder} is of another model or other settings, and --resume would mix '
            f'the two: {"; ".join(differences[:3])}{more}. Choose another --out-dir, '
            'or use the earlier settings.'
        )


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of nested dicts and lists, with keys such as ``a.b.0.c``."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f'{key}.{name}' if key else str(name))
    else:
        yield key, value


def _short(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return 'not there'
    value = str(settings[key])
    return value if len(value) <= 100 else f'{value[:99]}…'
