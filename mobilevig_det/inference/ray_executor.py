"""Ray executor: predict blocks of images on a cluster, with one output file each."""

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

CONNECT_S = 60  # Seconds to wait for a cluster.
# Seconds without a finished block after which the run is aborted. Ray restarts dead
# workers indefinitely, even if the same image crashes each of them.
STUCK_S = 4 * 3600
# Images in a block: at most MAX_BLOCK, fewer if there would be less than MIN_BLOCKS
# blocks to share, and more if there would be more than MAX_FILES files.
MIN_BLOCK, MAX_BLOCK = 8, 200
MIN_BLOCKS, MAX_FILES = 64, 20_000


@dataclass
class RayJob:
    """Settings of a run that are the same for all workers on all machines.

    Attributes:
        config (str | None): The text of the config; None for an exported detector.
        checkpoint (str): The absolute path, URL or name of the weights.
        categories (Mapping[int, str]): Class name by category id, in the model's order.
        score_thr (float): Minimum score of a detection.
        batch_size (int | None): Maximum number of images in a batch; None chooses it by
            image size.
        out_dir (str): The absolute path or URL of the output folder.
        folder (str): The working directory for relative names of images.
        must_see (list[str]): Paths that must exist on all machines; URLs are ignored.
        threads (int): Number of CPU threads of a worker. Defaults to 1.
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
    """Ray actor that predicts blocks of images and writes a Parquet file for each.

    Args:
        job (RayJob): The settings of the run.
    """

    def __init__(self, job: RayJob) -> None:
        self.job = job
        # Ray would restart a worker that raises here indefinitely. Every call returns
        # the error message instead.
        self.refusal: str | None = None
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
        load_all_safely()
        hush_opencv()
        torch.set_num_threads(job.threads)
        with suppress(OSError):  # Absolute names do not need the folder.
            os.chdir(job.folder)
        try:
            self._check_node()
            cfg = Config.fromstring(job.config, '.py') if job.config else None
            predictor = load_predictor(cfg, job.checkpoint, score_thr=job.score_thr)
            if predictor.device == 'cpu':
                prepare_process_for_cpu()
            self.store = ParquetStore(job.out_dir)
            self._stack = ExitStack()  # Its threads end with this object.
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
        """Predict blocks of images.

        Args:
            batch (pyarrow.Table): Blocks of :func:`make_blocks`, one in each row.

        Returns:
            pyarrow.Table: A row for each block, with the number of predicted ``images``
            and, as ``refusal``, the error message if this machine can't predict it.
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
    """Predict all blocks on a Ray cluster.

    Args:
        blocks (list[pyarrow.Table]): The blocks, from :func:`make_blocks`.
        left (int): The number of images in the blocks.
        job (RayJob): The settings of the run.
        address (str | None): The address of the cluster; None starts Ray on this
            machine.
        actors (int | None): The number of models; see :func:`share_out`.
        num_cpus (float | None): The number of CPUs and threads of each model.
        num_gpus (float | None): The number of GPUs of each model.

    Raises:
        UserError: If the cluster can't be reached, or a worker fails.
    """
    start(address)
    try:
        size, num_cpus, num_gpus = share_out(
            ray.cluster_resources(), actors, num_cpus, num_gpus, address is not None
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # The bar below counts images.
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
    """Start Ray on this machine, or connect to a cluster within ``CONNECT_S`` seconds.

    Args:
        address (str | None): The address of the cluster, ``HOST:PORT`` or ``auto``;
            None starts Ray on this machine.

    Raises:
        UserError: If Ray can't be started, or the cluster does not answer.
    """
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')  # also in Ray's log files
    quiet = dict(log_to_driver=False, logging_level='error')
    if address is None:
        # Without 'local', Ray would join a cluster that is already running here.
        try:
            ray.init('local', include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises plain Exceptions as well.
            raise UserError(
                f'Ray cannot be started here: {error} Its logs are in '
                '/tmp/ray/session_latest/logs. Is there memory left, and room in /tmp?'
            ) from error
        return
    unreachable = UserError(
        f'--address {address}: no Ray cluster answers there. `ray status` on its head '
        'tells whether it runs; its port is 6379 unless `ray start --head` was given '
        'another one. Run this tool on a machine of the cluster; if the cluster '
        "requires a token, set RAY_AUTH_MODE=token and copy the head's "
        '~/.ray/auth_token.'
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
    """Divide the resources of a cluster among models.

    Args:
        resources (dict[str, float]): The result of ``ray.cluster_resources()``.
        actors (int | None): The number of models; None uses the whole cluster.
        num_cpus (float | None): The number of CPUs of each model; None uses 0.8.
        num_gpus (float | None): The number of GPUs of each model; None uses one if the
            cluster has GPUs.
        may_grow (bool): Whether machines may be added to the cluster later.

    Returns:
        tuple[int, float, float]: The number of models, and the number of CPUs and GPUs
        of each.

    Raises:
        UserError: If the models need more than a cluster that can't grow has.
    """
    cpus, gpus = resources.get('CPU', 1), resources.get('GPU', 0)
    if num_gpus is None:
        num_gpus = float(gpus > 0)
    # Leave CPUs for Ray's own tasks.
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

    The division depends on the inputs only, so a resumed run has the same blocks.
    Images that are stored in Parquet files have one block for each row group.

    Args:
        inputs (Inputs): The images; videos are skipped.
        size (int | None): The number of images in a block; None chooses it by the
            number of images.
        is_done (Callable): Returns whether the image with a name has a record.

    Returns:
        tuple[list[pyarrow.Table], int, int]: The blocks of images without a record,
        each a table with one row; the number of images in them; the total number of
        images.
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
    """Return the images of a block.

    Args:
        chunks (list[str]): The column ``chunks`` of a block of :func:`make_blocks`.
    """
    return [InputImage(*fields) for chunk in chunks for fields in json.loads(chunk)]


def _chunks(inputs: Inputs, size: int) -> Iterator[tuple[bool, list[InputImage]]]:
    """Yield (False, ``size`` images) or (True, images of a Parquet row group)."""
    chunk: list[InputImage] = []
    group = None
    for image in inputs:
        if image.is_video:
            inputs.report.skip(image.name, 'the Ray executor does not support videos')
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
