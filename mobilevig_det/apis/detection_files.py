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
from .image_blocks import Images, find_filesystem, row_names
from .row_settings import check_settings

READERS = 16  # files that are opened at once: an object store takes its time


class RowFiles:
    """``OUT_DIR/settings.json``, and ``OUT_DIR/rows/part-….parquet``.

    Args:
        out_dir (str): An absolute path, or an address as s3://….

    Attributes:
        path (str): Of the folder of rows.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir.rstrip('/')
        self.path = f'{self.out_dir}/rows'
        self._filesystem, self._folder = find_filesystem(self.path)

    def begin(self, settings: dict[str, Any], resume: bool) -> None:
        """Make the folder, or go on with it.

        Args:
            settings (dict): What rows depend on.
            resume (bool): Whether to go on.

        Raises:
            UserError: If rows are there and ``resume`` isn't said, or they were made
                with other settings, or the folder can't be written.
        """
        path = find_filesystem(f'{self.out_dir}/settings.json')[1]
        try:
            self._filesystem.create_dir(self._folder, recursive=True)
            earlier = self._filesystem.get_file_info(path)
            if earlier.size and self._paths():
                if not resume:
                    raise UserError(
                        f'{self.path} has rows: --resume goes on with them. To begin '
                        'anew, delete that folder, or choose another --out-dir.'
                    )
                with self._filesystem.open_input_stream(path) as file:
                    check_settings(self.path, json.loads(file.read()), settings)
            with self._filesystem.open_output_stream(path) as file:
                file.write(json.dumps(settings, indent=1).encode())
        except OSError as error:
            raise UserError(
                f'--out-dir {self.out_dir} cannot be written: {error}'
            ) from error

    def names(self) -> pa.Array:
        """The names of the images that have a row.

        A file that is cut off, as a power cut leaves it, is deleted, as is what a
        killed worker had begun: their images aren't done.
        """
        for info in self._filesystem.get_file_info(fs.FileSelector(self._folder)):
            if info.path.endswith('.part'):
                self._filesystem.delete_file(info.path)
        tables = self._tables(['image'])
        return _joined(table['image'] for table in tables)

    def check(self, images: Images) -> int:
        """How many images couldn't be used.

        Raises:
            UserError: If not every image has one row.
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

    def _paths(self) -> list[str]:
        infos = self._filesystem.get_file_info(fs.FileSelector(self._folder))
        return [info.path for info in infos if info.path.endswith('.parquet')]

    def _tables(self, columns: Sequence[str]) -> list[pa.Table]:
        """Columns of all files that are whole; others are deleted."""

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
