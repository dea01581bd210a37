"""Predict blocks of images on a Ray cluster."""

import logging
import os
import signal
import socket
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError
from tqdm import tqdm

from ...errors import UserError
from .ray_worker import RayJob, RayWorker

CONNECT_S = 60  # seconds to wait for a cluster
# Seconds without a finished block. Ray restarts dead workers without end; an image
# that kills each of them must not do so for ever.
STUCK_S = 4 * 3600


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
        share = share_out(
            ray.cluster_resources(), actors, num_cpus, num_gpus, address is not None
        )
        job = replace(job, threads=max(1, int(share.num_cpus)))
        with tqdm(total=left, unit='image') as progress:
            predict(blocks, job, share, progress)
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


class Share(NamedTuple):
    """Number of models, and the CPUs and GPUs of each."""

    actors: int
    num_cpus: float
    num_gpus: float


def share_out(
    resources: dict[str, float],
    actors: int | None,
    num_cpus: float | None,
    num_gpus: float | None,
    may_grow: bool,
) -> Share:
    """Divide a cluster among models, as far as the user hasn't.

    Args:
        resources (dict[str, float]): What ``ray.cluster_resources()`` returns.
        actors (int | None): Models.
        num_cpus (float | None): CPUs of each.
        num_gpus (float | None): GPUs of each.
        may_grow (bool): Whether machines may still be added.

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
    return Share(actors, num_cpus, num_gpus)


def predict(blocks: list[pa.Table], job: RayJob, share: Share, progress: tqdm) -> None:
    """Have all blocks predicted.

    Raises:
        UserError: If a worker can't do its part.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images
    context.execution_no_progress_timeout_s = STUCK_S
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)
    found = ray.data.from_arrow(blocks).map_batches(
        RayWorker,
        fn_constructor_args=[job],
        batch_format='pyarrow',
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=share.actors, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=share.num_cpus,
        num_gpus=share.num_gpus,
    )
    for counts in found.iter_rows():
        if counts['refusal']:
            raise UserError(counts['refusal'])
        progress.update(counts['images'])
