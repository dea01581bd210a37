"""Store of records in Parquet, on any file system, which many machines write."""

import hashlib
import json
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from ..errors import UserError
from .digest_set import DigestSet
from .object_stores import find_filesystem, inside, without_secrets
from .records import Record, arrow_schema, utf8
from .stores import SETTINGS, RecordStore, SortedRecords

READERS = 16  # files that are opened at once, for object stores take their time


class ParquetStore(RecordStore):
    """``OUT_DIR/rows`` with a file ``part-….parquet`` of each block of images, and
    ``OUT_DIR/settings.json``, for readers of Parquet take every file of a folder.

    A block's file has the same name whoever writes it, and appears complete or not at
    all. So a block that is predicted again, because a worker or the driver died, gives
    each record once, even if the first worker's file appears late.

    Args:
        out_dir (str): An absolute path, or an address as s3://….
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir
        address = inside(out_dir, 'rows')
        self.path = without_secrets(address)
        self._filesystem, self._folder = find_filesystem(address)
        self._settings_path = find_filesystem(inside(out_dir, SETTINGS))[1]
        self._done = DigestSet()

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        try:
            self._filesystem.create_dir(self._folder, recursive=True)
            super().begin(settings, resume)
        except OSError as error:
            raise UserError(
                f'--out-dir {without_secrets(self.out_dir)} cannot be written: {error}'
            ) from error

    def done(self) -> DigestSet:
        return self._done

    def is_done(self, name: str) -> bool:
        """Whether an image has a record."""
        return utf8(name) in self._done

    def write_block(
        self, names: Sequence[str], records: list[Record], categories: Mapping[int, str]
    ) -> None:
        """Write the file of a block.

        Args:
            names (Sequence[str]): Of the block's images, which name the file.
            records (list[Record]): Their records.
            categories (Mapping[int, str]): Names of the classes, by id.

        Raises:
            OSError: If it cannot be written. Nothing incomplete is left.
        """
        table = pa.Table.from_pylist(
            [dict(record, image=utf8(record['image'])) for record in records],
            arrow_schema(categories),
        )
        text = '\0'.join(names).encode(errors='surrogateescape')
        digest = hashlib.blake2b(text, digest_size=10).hexdigest()
        path = f'{self._folder}/part-{digest}.parquet'
        # A file system shows files before they are complete, an object store doesn't;
        # readers of Parquet skip names that begin with a dot.
        renames = self._filesystem.type_name in ('local', 'hdfs')
        part = f'{self._folder}/.{uuid.uuid4().hex}.part' if renames else path
        try:
            pq.write_table(table, part, filesystem=self._filesystem, compression='zstd')
            if renames:
                self._filesystem.move(part, path)
        except OSError as error:
            if renames:
                with suppress(OSError):  # it isn't there, or the disk is gone
                    self._filesystem.delete_file(part)
            raise OSError(f'{path} cannot be written: {error}') from error

    def records(self) -> SortedRecords:
        return _SortedRows(self._filesystem, self._read(['place', 'error']))

    def check(self, count: int) -> int:
        """Return how many images could not be used.

        Args:
            count (int): How many images the run has.

        Raises:
            UserError: If not every image has exactly one record.
        """
        tables = [table for _, table in self._read(['image', 'error'])]
        names = DigestSet()
        twice = sum(not names.add(n) for t in tables for n in t['image'].to_pylist())
        missing = count - len(names)
        if missing > 0 or twice:
            raise UserError(
                f'{max(missing, 0)} images have no row, and {twice} rows are there '
                f'twice: another program has written into {self.path}, or deleted '
                'from it. Use --resume, or another --out-dir.'
            )
        return sum(len(t) - t['error'].null_count for t in tables)

    def _has_records(self) -> bool:
        return bool(self._files())

    def _open(self) -> None:
        for _, table in self._read(['image', 'error']):
            self.errors += len(table) - table['error'].null_count
            for name in table['image'].to_pylist():
                self._done.add(name)

    def _clear(self) -> None:
        for path in (*self._files(), *self._files('.part')):
            self._filesystem.delete_file(path)

    def _read_settings(self) -> dict[str, Any] | None:
        try:
            with self._filesystem.open_input_stream(self._settings_path) as file:
                settings = json.loads(file.read())
        except (FileNotFoundError, ValueError):
            return None
        return settings if isinstance(settings, dict) else None

    def _write_settings(self, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, indent=1).encode()
        with self._filesystem.open_output_stream(self._settings_path) as file:
            file.write(text)

    def _files(self, suffix: str = '.parquet') -> list[str]:
        found = self._filesystem.get_file_info(fs.FileSelector(self._folder))
        return [info.path for info in found if info.path.endswith(suffix)]

    def _read(self, columns: list[str]) -> list[tuple[str, pa.Table]]:
        """Read columns of all complete files; delete others, whose images are not
        done."""

        def read(path: str) -> tuple[str, pa.Table] | None:
            try:
                return path, pq.read_table(
                    path, columns=columns, filesystem=self._filesystem
                )
            except pa.ArrowInvalid:
                self._filesystem.delete_file(path)
                return None

        try:
            for path in self._files('.part'):
                self._filesystem.delete_file(path)
            paths = self._files()
            with ThreadPoolExecutor(READERS) as pool:
                tables = pool.map(read, paths)
                progress = tqdm(
                    tables, 'Reading the rows', len(paths), unit='file', delay=2
                )
                return [table for table in progress if table is not None]
        except OSError as error:
            raise UserError(
                f'{self.path} cannot be read: {error}. What was written is complete: '
                'use --resume when it can be read.'
            ) from error


class _SortedRows(SortedRecords):
    """Records of Parquet files, in 20 bytes of memory each and a few files."""

    def __init__(
        self, filesystem: fs.FileSystem, tables: list[tuple[str, pa.Table]]
    ) -> None:
        super().__init__()
        self._paths = [path for path, _ in tables]

        @lru_cache(8)
        def read(number: int) -> pa.Table:
            return pq.read_table(self._paths[number], filesystem=filesystem)

        self._file = read
        places, locations = array('q'), array('q')
        for number, (_, table) in enumerate(tables):
            places.extend(table['place'].to_pylist())
            locations.extend((number << 32) + row for row in range(len(table)))
        self._order = np.asarray(locations)[np.argsort(places, kind='stable')]

    def __iter__(self) -> Iterator[dict]:
        for location in map(int, self._order):
            table = self._file(location >> 32)
            (record,) = table.slice(location & (2**32 - 1), 1).to_pylist()
            yield record
