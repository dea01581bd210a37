"""Worker of the Ray executor: blocks of images in, Parquet files of records out."""

import json
import os
import os.path as osp
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, dataclass, field

import pyarrow as pa
import torch
from mmengine.config import Config

from ...checkpoints import load_all_safely
from ...datasets import hush_opencv
from ...errors import UserError
from ...ops import prepare_process_for_cpu
from ..encoder import RecordEncoder
from ..models import load_predictor
from ..object_stores import is_address
from ..parquet_store import ParquetStore
from ..pipeline import Pipeline
from ..sources import InputImage, Inputs

# Images in a block: at most MAX_BLOCK, fewer if there would be too few blocks to share,
# and more if there would be too many files.
MIN_BLOCK, MAX_BLOCK = 8, 200
MIN_BLOCKS, MAX_FILES = 64, 20_000


@dataclass
class RayJob:
    """What all workers of a run do, on whichever machine.

    Attributes:
        config (str | None): The text of a config; None for an exported detector.
        checkpoint (str): An absolute path, an address or a name.
        categories (Mapping[int, str]): Names of the classes by id, in the model's
            order.
        score_thr (float): Detections that score less are left out.
        batch_size (int | None): Images in a batch; None: by their size.
        out_dir (str): An absolute path or an address.
        folder (str): What relative names of images are relative to.
        must_see (list[str]): Of these, local paths must exist on all machines.
        threads (int): CPU threads of a worker. Defaults to 1.
    """

    config: str | None
    checkpoint: str
    categories: Mapping[int, str]
    score_thr: float
    batch_size: int | None
    out_dir: str
    folder: str
    must_see: list[str] = field(default_factory=list)
    threads: int = 1


class RayWorker:
    """Predicts blocks of images and writes one Parquet file of each.

    Args:
        job (RayJob): The same for all workers.
    """

    def __init__(self, job: RayJob) -> None:
        self.job = job
        # Ray would restart a worker that fails here again and again: every call
        # returns the message instead.
        self.refusal: str | None = None
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        hush_opencv()
        torch.set_num_threads(job.threads)
        with suppress(OSError):  # absolute names need no folder
            os.chdir(job.folder)
        try:
            self._check_node()
            cfg = Config.fromstring(job.config, '.py') if job.config else None
            predictor = load_predictor(cfg, job.checkpoint, score_thr=job.score_thr)
            if predictor.device == 'cpu':
                prepare_process_for_cpu()
            self.store = ParquetStore(job.out_dir)
            encoder = RecordEncoder(list(job.categories))
            self._stack = ExitStack()  # its threads end with this object
            self.pipeline = self._stack.enter_context(
                Pipeline(predictor, job.batch_size, encoder)
            )
        except UserError as error:
            self.refusal = str(error)

    def _check_node(self) -> None:
        for path in self.job.must_see:
            if not is_address(path) and not osp.exists(path):
                raise UserError(
                    f'there is no {path}, which the driver has. Workers need the '
                    'same files at the same paths: use a shared file system, an '
                    'object store, or copy them to all nodes.'
                )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict blocks of :func:`make_blocks`.

        Returns:
            pyarrow.Table: Of each, the number of ``images``, and as ``refusal`` why it
            can't be done on this machine.
        """
        rows = []
        for chunks in batch['chunks'].to_pylist():
            count, refusal = 0, self.refusal
            if refusal is None:
                try:
                    count = self._predict(unpack(chunks))
                except UserError as error:
                    refusal = str(error)
                except OSError as error:
                    refusal = (
                        f'{error}. What was written before is complete: make room, or '
                        'correct what is wrong, and use --resume.'
                    )
            if refusal is not None:
                refusal = f'on the node {socket.gethostname()}: {refusal}'
            rows.append(dict(images=count, refusal=refusal))
        schema = pa.schema([('images', pa.int64()), ('refusal', pa.string())])
        return pa.Table.from_pylist(rows, schema)

    def _predict(self, images: list[InputImage]) -> int:
        with closing(self.pipeline.run(images)) as results:
            records = [encoded.record for encoded in results]
        records.sort(key=lambda record: record['place'])
        names = [image.name for image in images]
        self.store.write_block(names, records, self.job.categories)
        return len(records)


def make_blocks(
    inputs: Inputs, size: int | None, is_done: Callable[[str], bool]
) -> tuple[list[pa.Table], int, int]:
    """Divide images into blocks for :class:`RayWorker`.

    Which images share a block depends on the inputs only, so that what is predicted
    again is the same. Images in Parquet with bytes have a block per row group.

    Args:
        inputs (Inputs): The images; videos are skipped.
        size (int | None): Images in a block; None: by their number.
        is_done (Callable): Whether the image of a name has a record.

    Returns:
        tuple[list[pyarrow.Table], int, int]: The blocks of what isn't done, each a
        table of one row; the number of images in them; the number of all images.
    """
    chunks: list[tuple[bool, int, str]] = []
    count = left_count = 0
    for is_group, images in _chunks(inputs, size or MIN_BLOCK):
        count += len(images)
        left = [image for image in images if not is_done(image.name)]
        left_count += len(left)
        chunks.append((is_group, len(left), json.dumps(list(map(astuple, left)))))
    chosen = max(
        MIN_BLOCK, min(MAX_BLOCK, -(-count // MIN_BLOCKS)), -(-count // MAX_FILES)
    )
    per_block = 1 if size else -(-chosen // MIN_BLOCK)
    blocks: list[list[str]] = []
    in_block = per_block
    for is_group, number, packed in chunks:
        if is_group or in_block >= per_block:
            blocks.append([])
            in_block = 0
        in_block = per_block if is_group else in_block + 1
        if number:
            blocks[-1].append(packed)
    schema = pa.schema([('chunks', pa.list_(pa.string()))])
    tables = [pa.table([[block]], schema) for block in blocks if block]
    return tables, left_count, count


def unpack(chunks: list[str]) -> list[InputImage]:
    """Return the images of a block."""
    return [InputImage(*fields) for chunk in chunks for fields in json.loads(chunk)]


def _chunks(inputs: Inputs, size: int) -> Iterator[tuple[bool, list[InputImage]]]:
    """Yield neighbours: ``size`` images, or a row group of Parquet (True)."""
    chunk: list[InputImage] = []
    group = None
    for image in inputs:
        if image.is_video:
            inputs.report.skip(image.name, 'the Ray executor reads no videos')
            continue
        is_row = image.file is not None and image.file.endswith('.parquet')
        own = (image.file, image.offset) if is_row else None
        if chunk and (own != group or (own is None and len(chunk) == size)):
            yield group is not None, chunk
            chunk = []
        group = own
        chunk.append(image)
    if chunk:
        yield group is not None, chunk
