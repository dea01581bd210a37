"""The Parquet files of rows that workers write: what is done, and what made it."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from ..errors import UserError
from .addresses import find_filesystem, inside, without_secrets
from .image_blocks import Images, row_names
from .row_settings import check_settings

READERS = 16  # files that are opened at once: an object store takes its time


class RowFiles:
    """``OUT_DIR/settings.json``, and ``OUT_DIR/rows/part-….parquet``.

    Args:
        out_dir (str): An absolute path, or an address as s3://….

    Attributes:
        address (str): Of the folder of rows, with what it takes to reach it.
        path (str): The same as messages have it, without secrets.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = without_secrets(out_dir)
        self.address = inside(out_dir, 'rows')
        self.path = without_secrets(self.address)
        self._filesystem, self._folder = find_filesystem(self.address)
        self._settings = find_filesystem(inside(out_dir, 'settings.json'))[1]

    def begin(self, settings: dict[str, Any], resume: bool) -> None:
        """Make the folder, or go on with it.

        Args:
            settings (dict): What rows depend on.
            resume (bool): Whether to go on.

        Raises:
            UserError: If rows are there and ``resume`` isn't said, or they were made
                with other settings, or it can't be told with which, or the folder
                can't be written.
        """
        try:
            self._filesystem.create_dir(self._folder, recursive=True)
            if not self._paths():
                with self._filesystem.open_output_stream(self._settings) as file:
                    file.write(json.dumps(settings, indent=1).encode())
                return
        except OSError as error:
            raise UserError(
                f'--out-dir {self.out_dir} cannot be written: {error}'
            ) from error
        if not resume:
            raise UserError(
                f'{self.path} has rows: --resume goes on with them. To begin '
                'anew, delete that folder, or choose another --out-dir.'
            )
        check_settings(self.path, self._earlier(), settings)

    def _earlier(self) -> dict[str, Any]:
        try:
            with self._filesystem.open_input_stream(self._settings) as file:
                return json.loads(file.read())
        except (OSError, ValueError) as error:
            raise UserError(
                f'{self.path} has rows, but {self.out_dir}/settings.json, which says '
                f'what made them, cannot be read ({error}): choose another --out-dir.'
            ) from error

    def names(self) -> pa.Array:
        """The names of the images that have a row.

        A file that is cut off, as a power cut leaves it, is deleted, as is what a
        killed worker had begun: their images aren't done.

        Raises:
            UserError: If the files can't be read.
        """
        return _joined(table['image'] for table in self._tables(['image']))

    def check(self, images: Images) -> int:
        """How many images couldn't be used.

        Raises:
            UserError: If not every image has one row, or they can't be read.
        """
        tables = self._tables(['image', 'error'])
        expected, found = row_names(images.names), _joined(t['image'] for t in tables)
        missing = pc.sum(pc.invert(pc.is_in(expected, value_set=found))).as_py() or 0
        twice = len(found) - len(found.unique())
        if missing or twice:
            raise UserError(
                f'{missing} images have no row, and {twice} rows are there twice: '
                f'somebody else has written into {self.path}, or deleted from it. '
                'Use --resume, or another --out-dir.'
            )
        return sum(len(t) - t['error'].null_count for t in tables)

    def _paths(self, end: str = '.parquet') -> list[str]:
        infos = self._filesystem.get_file_info(fs.FileSelector(self._folder))
        return [info.path for info in infos if info.path.endswith(end)]

    def _tables(self, columns: Sequence[str]) -> list[pa.Table]:
        """Columns of all files that are whole; others are deleted."""
        try:
            for path in self._paths('.part'):
                self._filesystem.delete_file(path)
            return self._read(columns)
        except OSError as error:
            raise UserError(
                f'{self.path} cannot be read: {error}. What was written is whole: go '
                'on with --resume when it can.'
            ) from error

    def _read(self, columns: Sequence[str]) -> list[pa.Table]:

        def read(path: str) -> pa.Table | None:
            try:
                return pq.read_table(
                    path, columns=list(columns), filesystem=self._filesystem
                )
            except pa.ArrowInvalid:
                self._filesystem.delete_file(path)
                return None

        paths = self._paths()
        with ThreadPoolExecutor(READERS) as pool:
            read_all = tqdm(
                pool.map(read, paths),
                'Reading the rows',
                len(paths),
                unit='file',
                delay=2,
            )
            return [table for table in read_all if table is not None]


def _joined(columns: Iterable[pa.ChunkedArray]) -> pa.Array:
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
