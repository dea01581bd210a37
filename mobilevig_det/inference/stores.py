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
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write, atomic_write_text
from .digest_set import DigestSet, digest_of
from .records import is_record
from .settings import check_settings

SETTINGS = 'settings.json'
# A power cut may take records that are younger than this; a kill takes none.
SYNC_SECONDS = 5.0


class RecordStore(ABC):
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
            settings (Mapping): What records depend on, see :mod:`.settings`.
            resume (bool): Keep the records of the earlier run.

        Raises:
            UserError: If there are records that would be overwritten, or that were
                made with other settings.
        """
        earlier = self._read_settings()
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
            self._open()
        else:
            self._clear()
        self._write_settings(dict(settings, finished=False))

    def finish(self) -> None:
        """Note that every input has its record."""
        self._write_settings(dict(self._read_settings() or {}, finished=True))

    @abstractmethod
    def records(self) -> 'SortedRecords':
        """Return all records in the order of the inputs."""

    @abstractmethod
    def done(self) -> DigestSet:
        """Return the names that have a record, after :meth:`begin`."""

    @abstractmethod
    def _has_records(self) -> bool: ...

    @abstractmethod
    def _open(self) -> None:
        """Read the names of the records, and remove what is not complete."""

    @abstractmethod
    def _clear(self) -> None: ...

    @abstractmethod
    def _read_settings(self) -> dict[str, Any] | None: ...

    @abstractmethod
    def _write_settings(self, settings: dict[str, Any]) -> None: ...


class SortedRecords(ABC):
    """Records in the order of the inputs, read one by one while they are iterated."""

    def __init__(self) -> None:
        self._order = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._order)

    @abstractmethod
    def __iter__(self) -> Iterator[dict]: ...


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
        return SortedLines(self.files)

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

    def _open(self) -> None:
        with tqdm(desc='Reading the rows so far', unit='row', delay=2) as progress:
            for path in self.files:
                complete = 0
                for _, end, record in complete_lines(path):
                    self._done.add(record['image'])
                    self.errors += record['error'] is not None
                    progress.update()
                    complete = end
                os.truncate(path, complete)

    def _clear(self) -> None:
        for path in self.files:
            os.remove(path)

    def _read_settings(self) -> dict[str, Any] | None:
        try:
            with open(self._settings_path, encoding='utf-8') as file:
                settings = json.load(file)
        except (FileNotFoundError, ValueError):
            return None
        return settings if isinstance(settings, dict) else None

    def _write_settings(self, settings: dict[str, Any]) -> None:
        atomic_write_text(self._settings_path, json.dumps(settings, indent=1))


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


def complete_lines(path: str) -> Iterator[tuple[int, int, dict]]:
    """Yield start, end and record of each line, up to the first that is no record."""
    start = 0
    with open(path, 'rb') as file:
        for line in file:
            record: Any = None
            if line.endswith(b'\n'):
                with contextlib.suppress(ValueError, RecursionError):
                    record = json.loads(line)
            if not is_record(record):
                return
            yield start, start + len(line), record
            start += len(line)


class SortedLines(SortedRecords):
    """Records of several files of lines, in 28 bytes of memory each.

    Of records of one name, which two runs can leave on a file system without locks,
    the first is used.

    Args:
        paths (Sequence[str]): The files.
    """

    def __init__(self, paths: list[str]) -> None:
        super().__init__()
        self._paths = paths
        places, frames, starts = array('q'), array('i'), array('q')
        names = array('Q')
        self._bases = [0]  # where each file would begin if they were one
        for path in paths:
            lines = tqdm(complete_lines(path), f'Reading {path}', unit='row', delay=2)
            for start, _, record in lines:
                places.append(record['place'])
                frames.append(record.get('frame', record.get('frames', 0)))
                starts.append(self._bases[-1] + start)
                names.append(digest_of(record['image']))
            self._bases.append(self._bases[-1] + osp.getsize(path))
        first = np.sort(np.unique(np.asarray(names), return_index=True)[1])
        places_, frames_ = np.asarray(places)[first], np.asarray(frames)[first]
        self._order = np.asarray(starts)[first][np.lexsort((frames_, places_))]

    def __iter__(self) -> Iterator[dict]:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, 'rb')) for path in self._paths]
            starts = tqdm(self._order, 'Writing the result', unit='row', delay=2)
            for start in map(int, starts):
                number = int(np.searchsorted(self._bases, start, 'right')) - 1
                files[number].seek(start - self._bases[number])
                yield json.loads(files[number].readline())
