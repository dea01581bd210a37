"""Store of records in Parquet, on any file system, which many machines write."""

import hashlib
import json
import uuid
from array import array
from collections.abc import Mapping, Sequence
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
from ..paths import hide_secrets, without_secrets
from .names import DigestSet, inside, printable
from .object_stores import find_filesystem
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
                f'--out-dir {without_secrets(self.out_dir)} cannot be written: '
                f'{hide_secrets(str(error), self.out_dir)}'
            ) from None

    def is_done(self, name: str) -> bool:
        """Whether an image has a record."""
        return printable(name) in self._done

    def write_block(
        self, names: Sequence[str], records: list[dict], categories: Mapping[int, str]
    ) -> None:
        """Write the file of a block.

        Args:
            names (Sequence[str]): Of the block's images, which name the file.
            records (list[dict]): Their records.
            categories (Mapping[int, str]): Names of the classes, by id.

        Raises:
            OSError: If it cannot be written. Nothing incomplete is left.
        """
        table = pa.Table.from_pylist(
            [dict(record, image=printable(record['image'])) for record in records],
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
            reason = hide_secrets(str(error), self.out_dir)
            raise OSError(f'{path} cannot be written: {reason}') from None

    def records(self) -> SortedRecords:
        tables = self._read(['place', 'error'])

        @lru_cache(8)
        def opened(number: int) -> pa.Table:
            return pq.read_table(tables[number][0], filesystem=self._filesystem)

        def read(location: int) -> dict[str, Any]:
            row = location & (2**32 - 1)
            return opened(location >> 32).slice(row, 1).to_pylist()[0]

        places, locations = array('q'), array('q')
        for number, (_, table) in enumerate(tables):
            places.extend(table['place'].to_pylist())
            locations.extend((number << 32) + row for row in range(len(table)))
        order = np.argsort(places, kind='stable')
        return SortedRecords(np.asarray(locations)[order], read)

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

    def _open(self, settings: Mapping[str, Any]) -> None:
        for _, table in self._read(['image', 'error']):
            self.errors += len(table) - table['error'].null_count
            for name in table['image'].to_pylist():
                self._done.add(name)

    def _clear(self) -> None:
        for path in (*self._files(), *self._files('.part')):
            self._filesystem.delete_file(path)

    def _read_settings(self) -> bytes:
        with self._filesystem.open_input_stream(self._settings_path) as file:
            return file.read()

    def _write_settings(self, text: str) -> None:
        with self._filesystem.open_output_stream(self._settings_path) as file:
            file.write(text.encode())

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
            reason = hide_secrets(str(error), self.out_dir)
            raise UserError(
                f'{self.path} cannot be read: {reason}. What was written is complete: '
                'use --resume when it can be read.'
            ) from error


def arrow_schema(categories: Mapping[int, str]) -> pa.Schema:
    """Return the columns of records in Parquet.

    Args:
        categories (Mapping[int, str]): Names of the classes by category id. They are
            stored as JSON in the schema's metadata, under ``categories``.
    """
    mask = pa.struct([('size', pa.list_(pa.int32())), ('counts', pa.string())])
    return pa.schema(
        [
            ('place', pa.int64()),
            ('image', pa.string()),
            ('width', pa.int32()),
            ('height', pa.int32()),
            ('boxes', pa.list_(pa.list_(pa.float64()))),
            ('labels', pa.list_(pa.int64())),
            ('scores', pa.list_(pa.float64())),
            ('masks', pa.list_(mask)),
            ('error', pa.string()),
        ],
        {'categories': json.dumps(categories)},
    )
