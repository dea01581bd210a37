"""The folder of a run's rows: what made them, and going on with them."""

import glob
import json
import os
import os.path as osp
from array import array
from collections.abc import Container
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from ..io import atomic_write, atomic_write_text
from .row_files import RowWriter, whole_rows
from .row_settings import check_settings
from .seen_names import digest_of_name


class DoneNames(Container[str]):
    """Names of images and frames that have a row, 8 bytes each.

    Args:
        digests (np.ndarray): Of the names, sorted.
    """

    def __init__(self, digests: np.ndarray) -> None:
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests)

    def __contains__(self, name: object) -> bool:
        digest = np.uint64(digest_of_name(str(name)))
        place = np.searchsorted(self.digests, digest)
        return bool(place < len(self.digests) and self.digests[place] == digest)


class RowFolder:
    """``OUT_DIR/rows``: ``settings.json``, and ``0.jsonl``, ``1.jsonl``, … of the
    processes. A context manager: nobody else begins in it meanwhile.

    Args:
        out_dir (str): The run's folder.

    Attributes:
        errors (int): Rows of earlier runs that say why an input couldn't be used;
            known after :meth:`begin`.
    """

    def __init__(self, out_dir: str) -> None:
        self.path = osp.join(out_dir, 'rows')
        self.errors = 0
        self._settings_path = osp.join(self.path, 'settings.json')
        self._done_path = osp.join(self.path, '.done.npy')
        self._lock: TextIO | None = None

    def __enter__(self) -> 'RowFolder':
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def files(self) -> list[str]:
        """The processes' files, in their order."""
        files = glob.glob(osp.join(glob.escape(self.path), '*.jsonl'))
        return sorted(files, key=lambda path: (len(path), path))

    def begin(self, settings: dict[str, Any], resume: bool) -> None:
        """Make the folder, or go on with it. One process does so.

        Rows of a finished run are replaced, those of an unfinished one never.

        Raises:
            UserError: If rows are there that these would overwrite, or don't go
                with.
        """
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'--out-dir cannot be written ({error}): choose another one.'
            ) from error
        self._lock_it()
        earlier = self._read_settings()
        rows = any(osp.getsize(path) for path in self.files)
        if rows and earlier is None:
            raise UserError(
                f'{self.path} has rows, and no settings.json that says what made '
                'them: choose another --out-dir, or delete that folder.'
            )
        if rows and not resume and earlier and not earlier.get('finished'):
            raise UserError(
                f'{self.path} has what an unfinished run has done: --resume goes on '
                'with it. To begin anew, delete that folder, or choose another '
                '--out-dir.'
            )
        digests = array('Q')
        if rows and resume and earlier is not None:
            check_settings(self.path, earlier, settings)
            digests = self._read_names()
        else:
            for path in self.files:
                os.remove(path)
        done = np.sort(np.asarray(digests, np.uint64))
        with atomic_write(self._done_path) as part:
            _save(part, done)
        atomic_write_text(
            self._settings_path, json.dumps(dict(settings, finished=False), indent=1)
        )

    def done(self) -> DoneNames:
        """What need not be done again, after one process has begun."""
        return DoneNames(np.load(self._done_path))

    def writer(self, rank: int) -> RowWriter:
        return RowWriter(osp.join(self.path, f'{rank}.jsonl'))

    def finish(self) -> None:
        """Say that all inputs have their rows."""
        settings = dict(self._read_settings() or {}, finished=True)
        atomic_write_text(self._settings_path, json.dumps(settings, indent=1))
        os.remove(self._done_path)

    def _lock_it(self) -> None:
        """Two runs that go on with the same rows would do every image twice."""
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

    def _read_settings(self) -> dict[str, Any] | None:
        try:
            with open(self._settings_path, encoding='utf-8') as file:
                settings = json.load(file)
        except (FileNotFoundError, ValueError):
            return None
        return settings if isinstance(settings, dict) else None

    def _read_names(self) -> array:
        """Digests of the names; what is not whole at a file's end is cut off."""
        digests = array('Q')
        with tqdm(desc='Reading the rows so far', unit='row', delay=2) as progress:
            for path in self.files:
                whole = 0
                for _, end, row in whole_rows(path):
                    digests.append(digest_of_name(row['image']))
                    self.errors += row['error'] is not None
                    progress.update()
                    whole = end
                os.truncate(path, whole)
        return digests


def _save(path: Path, values: np.ndarray) -> None:
    with open(path, 'wb') as file:
        np.save(file, values)
