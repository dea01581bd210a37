"""A worker of ``tools/infer_ray.py``: blocks of images in, files of rows out."""

import hashlib
import json
import os
import os.path as osp
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mmengine.config import Config
from pyarrow import fs

from ..checkpoints import load_all_safely
from ..datasets import ImageFileError, hush_opencv, read_image
from ..datasets.image_file import decode_image
from ..errors import UserError
from .addresses import NoAddress, find_filesystem, find_image, is_address
from .detection_rows import Row, arrow_schema, error_row, found_row, utf8
from .detector import load_detector
from .image_blocks import image_columns
from .inferencer import NoPicture, Picture, Prediction
from .overlap import overlapped, threads_of

# Rows of a Parquet file of images that are in memory at a time.
AT_A_TIME = 32


@dataclass
class Job:
    """What all workers of a run do, wherever they are.

    ``cfg`` is a config's text, ``checkpoint`` None where its model needs none, and
    ``categories`` are the names of the classes by id, in the model's order.
    ``inputs`` and ``out`` are absolute paths or addresses; images' names may be
    relative to ``folder``. ``must_see`` is what the driver has, of which local files
    and folders must be on all nodes.
    """

    cfg: str
    checkpoint: str | None
    categories: dict[int, str]
    score_thr: float
    batch_size: int | None
    inputs: str
    out: str
    folder: str
    must_see: list[str] = field(default_factory=list)
    threads: int = 1


class DetectionWorker:
    """Detects in blocks of images; each becomes one Parquet file of rows.

    The file of a block has the same name whoever writes it, and appears as a whole
    or not at all. So a block that is done again, because a worker or the driver
    died, gives each row once; also where the dead one's file comes late.

    Args:
        job (Job): The same for all workers.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.refusal: str | None = None
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        hush_opencv()
        torch.set_num_threads(job.threads)
        try:
            self._check_node()
            cfg = Config.fromstring(job.cfg, '.py')
            self.detector = load_detector(cfg, job.checkpoint)
            self._threads = ExitStack()  # they end with this object
            self.threads = self._threads.enter_context(threads_of(self.detector))
        except UserError as error:
            # Ray would start a worker anew that fails here; it hands on what a
            # call raises.
            self.refusal = f'on the node {socket.gethostname()}: {error}'

    def _check_node(self) -> None:
        for path in self.job.must_see:
            if not is_address(path) and not osp.exists(path):
                raise UserError(
                    f'there is no {path}, which the driver has. Workers need the '
                    'same files at the same paths: use a shared file system, an '
                    'object store, or copy them to all nodes.'
                )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do blocks of :func:`image_blocks.left_blocks`.

        Returns:
            pyarrow.Table: Of each, the number of images and of errors.

        Raises:
            UserError: If this node can't do it, or its rows can't be written.
        """
        if self.refusal:
            raise UserError(self.refusal)
        counts = []
        for block in batch.to_pylist():
            rows = self.rows(block)
            self._write(block['names'], rows)
            errors = sum(row['error'] is not None for row in rows)
            counts.append(dict(images=len(rows), errors=errors))
        return pa.Table.from_pylist(counts)

    def rows(self, block: dict) -> list[Row]:
        """The rows of a block's images, in their order."""
        names = [os.fsdecode(name) for name in block['names']]
        items = zip(range(len(names)), names, self._contents(block))
        found = overlapped(
            self.detector,
            items,
            self._read,
            self._row,
            self.job.batch_size,
            self.threads,
        )
        with closing(found):
            rows = dict(found)
        return [rows[at] for at in range(len(names))]

    def _read(self, item: tuple[int, str, bytes | None]) -> Picture | tuple[int, Row]:
        at, name, data = item
        try:
            return Picture(name, self._decode(name, data), at)
        except ImageFileError as error:
            return at, error_row(name, str(error))

    def _row(self, found: Prediction | NoPicture) -> tuple[int, Row]:
        job = self.job
        return found.picture.id, found_row(found, list(job.categories), job.score_thr)

    def _contents(self, block: dict) -> Iterator[bytes | None]:
        """The files' content where it is in Parquet, None for each where not."""
        if block['file'] is None:
            yield from [None] * len(block['names'])
            return
        wanted = set(block['rows'])
        filesystem, _ = find_filesystem(self.job.inputs)
        try:
            with filesystem.open_input_file(block['file']) as opened:
                file = pq.ParquetFile(opened)
                _, column = image_columns(block['file'], file.schema_arrow)
                at = 0
                for batch in file.iter_batches(
                    AT_A_TIME, [block['row_group']], columns=[column]
                ):
                    for value in batch.column(0):
                        if at in wanted:
                            yield value.as_py() or b''
                        at += 1
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(block['file'], error) from error

    def _decode(self, name: str, data: bytes | None) -> np.ndarray:
        if data is not None:
            return decode_image(data)
        if not is_address(name):
            return read_image(osp.join(self.job.folder, name))
        try:
            filesystem, path = find_image(name, self.job.inputs)
            with filesystem.open_input_stream(path) as file:
                data = file.read()
        except (NoAddress, pa.ArrowInvalid) as error:
            raise ImageFileError(str(error)) from None
        except FileNotFoundError:
            raise ImageFileError('there is no such file') from None
        except UnicodeError:
            raise ImageFileError('its name is not UTF-8, as addresses are') from None
        except OSError as error:
            # The network, or rights: more than this image are lost on it.
            raise _unreadable(name, error) from error
        return decode_image(data)

    def _write(self, names: list[bytes], rows: list[Row]) -> None:
        table = pa.Table.from_pylist(
            [dict(row, image=utf8(row['image'])) for row in rows],
            arrow_schema().with_metadata(
                {'categories': json.dumps(self.job.categories)}
            ),
        )
        digest = hashlib.blake2b(b'\0'.join(names), digest_size=10).hexdigest()
        filesystem, folder = find_filesystem(self.job.out)
        path = f'{folder}/part-{digest}.parquet'
        # A file system shows a file before it is whole, an object store doesn't;
        # readers of Parquet leave out what begins with a dot.
        renames = filesystem.type_name in ('local', 'hdfs')
        part = f'{folder}/.{uuid.uuid4().hex}.part' if renames else path
        try:
            pq.write_table(table, part, filesystem=filesystem, compression='zstd')
            if renames:
                filesystem.move(part, path)
        except OSError as error:
            if renames:
                _forget(filesystem, part)
            raise UserError(
                f'on the node {socket.gethostname()}: {path} cannot be written: '
                f'{error}. What was written before is whole: make room, or put right '
                'what is wrong, and go on with --resume.'
            ) from error


def _unreadable(what: str, error: Exception) -> UserError:
    return UserError(
        f'on the node {socket.gethostname()}: {what} cannot be read: {error}. '
        'Go on with --resume when it can.'
    )


def _forget(filesystem: fs.FileSystem, path: str) -> None:
    try:
        filesystem.delete_file(path)
    except OSError:
        pass  # it isn't there, or the disk is gone
