"""Start and end process groups: launchers, elastic restarts, exit codes."""

import atexit
import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_main_process
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError

# Exit codes of a training that neither finishes nor fails with an exception.
NOT_FINITE = 3  # losses or gradients were not finite for too long
HUNG = 4  # another process died or does not respond
STOPPED = 143  # by a signal: 128 + SIGTERM, as in other trainers

# The environment variable that each launcher sets, and its command.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
_left_groups: list = []


def check_launcher(launcher: str) -> None:
    """Check that this process was started by its launcher.

    Args:
        launcher (str): ``none``, or a key of ``LAUNCHERS``.

    Raises:
        UserError: If MMEngine couldn't start a process group.
    """
    if launcher == 'none':
        return
    variable, program = LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(
            f'--launcher {launcher}: this process was not started by '
            f'{program} ({variable} is not set). Leave the flag out, or see '
            'docs/scaling.md for the complete command.'
        )
    if launcher != 'pytorch' and get_device() == 'cpu':
        raise UserError(
            f'--launcher {launcher} needs a GPU for each process, '
            'and torch sees none. On CPUs use torchrun and '
            '--launcher pytorch.'
        )


def restarts() -> int:
    """Return how often torchrun (``--max-restarts``) has restarted this process."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def init_process_group(backend: str, timeout: float | None = None) -> None:
    """Call ``torch.distributed.init_process_group``, also after an elastic restart.

    torchrun keeps its store when it restarts processes (seen with torch 2.13), with
    the addresses of dead processes in it, which torch's own function would try to
    reach. So each restart uses a prefix of its own.

    Args:
        backend (str): ``nccl`` or ``gloo``.
        timeout (float, optional): Timeout of collectives in seconds. Defaults to
            torch's.
    """
    store, rank, size = next(rendezvous('env://'))
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore(f'start_{restarts()}', store),
        rank=rank,
        world_size=size,
        timeout=None if timeout is None else timedelta(seconds=timeout),
    )


def from_main_process(function: Callable[[], Any]) -> Any:
    """Call a function on the first rank, and return its result on all ranks.

    Raises:
        UserError: On all ranks, if the function raises one.
    """
    answer: list = [None, None]
    if is_main_process():
        try:
            answer[0] = function()
        except UserError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return answer[0]


def leave_process_group() -> None:
    """Destroy the default process group, if any, without a deadlock or an abort.

    If it is left to the interpreter's exit, gloo's threads now and then abort a
    process whose work is done. If it is destroyed at once, the group often lives on
    in a model's ``DistributedDataParallel``, which joins those threads while it holds
    the GIL: a thread that has a tensor to release waits for the GIL, and both wait
    forever (pytorch/pytorch#56297). So this module keeps the last reference and drops
    it at exit, with the GIL released.
    """
    if distributed.is_available() and distributed.is_initialized():
        _left_groups.append(distributed.group.WORLD)
        atexit.register(_release_groups, os.getpid())
        distributed.destroy_process_group()


def _release_groups(pid: int) -> None:
    if os.getpid() == pid:  # a forked process has none of the threads to join
        gc.collect()  # a model in a reference cycle
        _left_groups.clear()
