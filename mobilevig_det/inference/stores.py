"""Stores of records on disk, and the rule by which a run resumes.

A store is the folder ``rows/`` of a run, with the files of records (lines of JSON of
the local and torchrun executors, Parquet of the Ray executor), and ``settings.json``.
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
# A power cut may take records that are younger than this; a kill takes none.
SYNC_SECONDS = 5.0


class RecordStore:
    """The records of a run, and which inputs have one.

    Attributes:
        path (str): The folder, as messages show it.
        errors (int): Records of earlier runs that say why an input could not be used;
            known after :meth:`begin`.
    """

    path: str
    errors = 0

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Start a run, or resume one.

        Records of a finished run are replaced, those of an unfinished one never.

        Args:
            settings (Mapping): What records depend on, see :mod:`.run`.
            resume (bool): Keep the records of the earlier run.

        Raises:
            UserError: If there are records that would be overwritten, or that were
                made with other settings.
        """
        earlier = self._settings()
        has_records = self._has_records()
        if has_records and earlier is None:
            raise UserError(
                f'{self.path} has rows, and no {SETTINGS} that says what made them: '
                'choose another --out-dir, or delete that folder.'
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
        """Note that every input has its record."""
        settings = dict(self._settings() or {}, finished=True)
        self._write_settings(json.dumps(settings, indent=1))

    def records(self) -> 'SortedRecords':
        """Return all records in the order of the inputs."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any] | None:
        """Return the settings of an earlier run; None if there are none, or damaged."""
        try:
            settings = json.loads(self._read_settings())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return settings if isinstance(settings, dict) else None

    def _open(self, settings: Mapping[str, Any]) -> None:
        """Read the names of the records, and remove what is not complete."""
        raise NotImplementedError

    _has_records: Callable[[], bool]
    _clear: Callable[[], None]
    _read_settings: Callable[[], bytes]
    _write_settings: Callable[[str], None]


class SortedRecords:
    """Records in the order of the inputs, read one by one while they are iterated.

    Args:
        locations (np.ndarray): Where each is; int64.
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
    """``OUT_DIR/rows`` with a file ``0.jsonl``, ``1.jsonl``, … of each process.

    Files are only appended to. A kill leaves at most the beginning of a line at the
    end of a file: readers stop there, and a resumed run truncates it. A context
    manager: no other run begins in the folder meanwhile.

    Args:
        out_dir (str): The run's folder.
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
        """The files of the processes, in their order."""
        files = glob.glob(osp.join(glob.escape(self.path), '*.jsonl'))
        return sorted(files, key=lambda path: (len(path), path))

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
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
        """Return the names that have a record: in any process, once one has begun."""
        return DigestSet.from_digests(np.load(self._done_path))

    def writer(self, rank: int) -> 'JsonLinesWriter':
        return JsonLinesWriter(osp.join(self.path, f'{rank}.jsonl'))

    def records(self) -> SortedRecords:
        return sorted_lines(self.files)

    def finish(self) -> None:
        super().finish()
        os.remove(self._done_path)

    def _acquire_lock(self) -> None:
        """Two runs that resumed the same records would predict every image twice."""
        try:
            import fcntl
        except ImportError:  # Windows has none
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
    """Appends records to a file; each is handed to the system at once.

    Args:
        path (str): The file. It is made, or appended to.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, 'ab', buffering=0)
        self._synced = time.monotonic()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record.

        Raises:
            OSError: If the disk is full, or fails. No part of the record is left, if
                that can be helped.
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
    """Yield start, end and record of each line, up to the first that is no record.

    Args:
        path (str): The file.
        categories (Container[str], optional): Ids of the classes, as text. Defaults
            to None: any.
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
    """Whether parsed JSON is a record; other values may raise an error of Python."""
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
    """Return the records of several files of lines, in 28 bytes of memory each.

    Of records of one name, which two runs can leave on a file system without locks,
    the first is used.
    """
    places, frames, starts, names = array('q'), array('i'), array('q'), array('Q')
    bases = [0]  # where each file would begin if they were one
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

    @lru_cache(128)  # of open files, which end with this function
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
    """Refuse to resume records that were made with other settings.

    Args:
        folder (str): Its name, for the message.
        before (Mapping): What :func:`settings_of` returned then.
        now (Mapping): What it returns now.

    Raises:
        UserError: With the differences.
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
            'or what was given before.'
        )


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (a.b.0.c, value) of nested dicts and lists of dicts."""
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
