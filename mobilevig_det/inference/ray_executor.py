"""Predict blocks of images on a Ray cluster: each becomes a Parquet file of records."""

import json
import logging
import os
import os.path as osp
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from mmengine.config import Config
from ray.exceptions import RayError
from tqdm import tqdm

from ..checkpoints import load_all_safely
from ..datasets import hush_opencv
from ..errors import UserError
from ..ops import prepare_process_for_cpu
from .images import InputImage
from .models import load_predictor
from .names import is_address
from .parquet_store import ParquetStore
from .pipeline import Pipeline
from .sources import Inputs

CONNECT_S = 60  # seconds to wait for a cluster
# Seconds without a finished block. Ray restarts dead workers without end; an image
# that kills each of them must not do so for ever.
STUCK_S = 4 * 3600
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
            self._stack = ExitStack()  # its threads end with this object
            self.pipeline = self._stack.enter_context(
                Pipeline(predictor, job.batch_size)
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
            ids = list(self.job.categories)
            records: list[dict[str, Any]] = [
                dict(result.to_record(ids)) for result in results
            ]
        records.sort(key=lambda record: record['place'])
        names = [image.name for image in images]
        self.store.write_block(names, records, self.job.categories)
        return len(records)


def run(
    blocks: list[pa.Table],
    left: int,
    job: RayJob,
    address: str | None,
    actors: int | None,
    num_cpus: float | None,
    num_gpus: float | None,
) -> None:
    """Have all blocks predicted on a cluster, or on one that is started here.

    Args:
        blocks (list[pyarrow.Table]): From :func:`.ray_worker.make_blocks`.
        left (int): Number of images in them.
        job (RayJob): What to do with them.
        address (str | None): The cluster's; None starts one here.
        actors (int | None): Models; see :func:`share_out`.
        num_cpus (float | None): CPUs, and threads, of each model.
        num_gpus (float | None): GPUs of each model.

    Raises:
        UserError: If there is no cluster, or a worker can't do its part.
    """
    start(address)
    try:
        size, num_cpus, num_gpus = share_out(
            ray.cluster_resources(), actors, num_cpus, num_gpus, address is not None
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours counts images
        context.execution_no_progress_timeout_s = STUCK_S
        logging.getLogger('ray.data').setLevel(logging.CRITICAL)
        found = ray.data.from_arrow(blocks).map_batches(
            RayWorker,
            fn_constructor_args=[replace(job, threads=max(1, int(num_cpus)))],
            batch_format='pyarrow',
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=size, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        with tqdm(total=left, unit='image') as progress:
            for counts in found.iter_rows():
                if counts['refusal']:
                    raise UserError(counts['refusal'])
                progress.update(counts['images'])
    finally:
        ray.shutdown()


def start(address: str | None) -> None:
    """Start Ray here, or connect to a cluster, within a minute."""
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')  # in its log files too
    quiet = dict(log_to_driver=False, logging_level='error')
    if address is None:
        # Without an address it would join a cluster that `ray start` left running.
        try:
            ray.init('local', include_dashboard=False, **quiet)
        except Exception as error:  # also a bare one
            raise UserError(
                f'Ray cannot be started here: {error} Its logs are in '
                '/tmp/ray/session_latest/logs. Is there memory left, and room in /tmp?'
            ) from error
        return
    unreachable = UserError(
        f'--address {address}: no Ray cluster answers there. `ray status` on its head '
        'tells whether it runs; its port is 6379 unless `ray start --head` was told '
        'another. Run this tool on a machine of the cluster; where that asks for a '
        "token, with RAY_AUTH_MODE=token and the head's ~/.ray/auth_token."
    )
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if address != 'auto':
        try:
            socket.create_connection((host.strip('[]'), int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise unreachable from error

    def give_up(*_) -> None:
        raise unreachable

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(CONNECT_S)
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise unreachable from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def share_out(
    resources: dict[str, float],
    actors: int | None,
    num_cpus: float | None,
    num_gpus: float | None,
    may_grow: bool,
) -> tuple[int, float, float]:
    """Divide a cluster among models, as far as the user hasn't.

    Args:
        resources (dict[str, float]): What ``ray.cluster_resources()`` returns.
        actors (int | None): Models.
        num_cpus (float | None): CPUs of each.
        num_gpus (float | None): GPUs of each.
        may_grow (bool): Whether machines may still be added.

    Returns:
        tuple[int, float, float]: Number of models, and the CPUs and GPUs of each.

    Raises:
        UserError: If that is more than there is, and it can't grow.
    """
    cpus, gpus = resources.get('CPU', 1), resources.get('GPU', 0)
    if num_gpus is None:
        num_gpus = float(gpus > 0)
    # Ray's own tasks would wait if the models had all CPUs.
    num_cpus = num_cpus or 0.8
    if actors is None:
        most = gpus // num_gpus if num_gpus else cpus // max(1, num_cpus)
        actors = max(1, int(most))
    if not may_grow and (actors * num_cpus > cpus or actors * num_gpus > gpus):
        raise UserError(
            f'{actors} models with {num_cpus:g} CPUs and {num_gpus:g} GPUs each do not '
            f'fit into the {cpus:g} CPUs and {gpus:g} GPUs here: give fewer --actors, '
            'or less to each with --cpus-per-actor and --num-gpus.'
        )
    return actors, num_cpus, num_gpus


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
