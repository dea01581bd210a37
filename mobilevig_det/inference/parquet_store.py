"""Store of records in Parquet files, to which several machines can write."""

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

READERS = 16  # Files to read in parallel, because object stores have a high latency.


class ParquetStore(RecordStore):
    """Store with one Parquet file in ``OUT_DIR/rows`` for each block of images.

    The settings are in ``OUT_DIR/settings.json``, because Parquet readers read every
    file in a folder. Writes are atomic, and the name of a file depends only on its
    images. A block that is predicted again after a worker or the driver has died
    therefore replaces its file and never duplicates records.

    Args:
        out_dir (str): An absolute path or a URL of the output folder.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir
        address = inside(out_dir, 'rows')
        self.path = without_secrets(address)
        self._filesystem, self._folder = find_filesystem(address)
        self._settings_path = find_filesystem(inside(out_dir, SETTINGS))[1]
        self._done = DigestSet()

    def begin(self, settings: Mapping[str, Any], resume: bool) -> None:
        """Create the folder, and start or resume a run; see :class:`RecordStore`."""
        try:
            self._filesystem.create_dir(self._folder, recursive=True)
            super().begin(settings, resume)
        except OSError as error:
            raise UserError(
                f'--out-dir {without_secrets(self.out_dir)} cannot be written: '
                f'{hide_secrets(str(error), self.out_dir)}'
            ) from None

    def is_done(self, name: str) -> bool:
        """Return whether an image had a record when the run began."""
        return printable(name) in self._done

    def write_block(
        self, names: Sequence[str], records: list[dict], categories: Mapping[int, str]
    ) -> None:
        """Write the records of a block atomically to one file.

        Args:
            names (Sequence[str]): Names of the images, which determine the file name.
            records (list[dict]): The records of the images.
            categories (Mapping[int, str]): Class name by category id.

        Raises:
            OSError: If the file can't be written. No incomplete file remains.
        """
        table = pa.Table.from_pylist(
            [dict(record, image=printable(record['image'])) for record in records],
            arrow_schema(categories),
        )
        text = '\0'.join(names).encode(errors='surrogateescape')
        digest = hashlib.blake2b(text, digest_size=10).hexdigest()
        path = f'{self._folder}/part-{digest}.parquet'
        # On a file system an incomplete file is visible, in an object store it is not.
        # Parquet readers skip names that begin with a dot.
        renames = self._filesystem.type_name in ('local', 'hdfs')
        part = f'{self._folder}/.{uuid.uuid4().hex}.part' if renames else path
        try:
            pq.write_table(table, part, filesystem=self._filesystem, compression='zstd')
            if renames:
                self._filesystem.move(part, path)
        except OSError as error:
            if renames:
                with suppress(OSError):  # The file or the disk is missing.
                    self._filesystem.delete_file(part)
            reason = hide_secrets(str(error), self.out_dir)
            raise OSError(f'{path} cannot be written: {reason}') from None

    def records(self) -> SortedRecords:
        """Return all records, in the order of the inputs."""
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
        """Check that the records are complete.

        Args:
            count (int): The number of images in the run.

        Returns:
            int: The number of images that could not be used.

        Raises:
            UserError: If not every image has exactly one record.
        """
        tables = [table for _, table in self._read(['image', 'error'])]
        names = DigestSet()
        twice = sum(not names.add(n) for t in tables for n in t['image'].to_pylist())
        missing = count - len(names)
        if missing > 0 or twice:
            raise UserError(
                f'{max(missing, 0)} images have no row, and {twice} rows are '
                f'duplicates: another program has changed files in {self.path}. '
                'Use --resume, or another --out-dir.'
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
        """Read columns of all complete files, and delete incomplete files.

        The images of a deleted file are predicted again.
        """

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
    """Return the Parquet schema of records.

    Args:
        categories (Mapping[int, str]): Class name by category id. It is stored as JSON
            in the schema's metadata, under the key ``categories``.
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
