"""Start and end process groups: launchers, elastic restarts, a clean shutdown."""

import atexit
import gc
import os
from datetime import timedelta

from mmengine.device import get_device
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError

# The environment variable that each launcher sets, and its command.
LAUNCHERS = {
    'pytorch': ('RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
_left: list = []


def check_launcher(launcher: str) -> None:
    """Raise a UserError if MMEngine couldn't start a process group."""
    if launcher == 'none':
        return
    variable, program = LAUNCHERS[launcher]
    if variable not in os.environ:
        raise UserError(
            f'--launcher {launcher}: this process was not started by '
            f'{program} ({variable} is not set). Leave the flag out, or see '
            'docs/scaling.md for the whole command.'
        )
    if launcher != 'pytorch' and get_device() == 'cpu':
        raise UserError(
            f'--launcher {launcher} needs a GPU for each process, '
            'and torch sees none. On CPUs use torchrun and '
            '--launcher pytorch.'
        )


def restarts() -> int:
    """How often torchrun (``--max-restarts``) has started this process anew."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def init_process_group(backend: str, timeout: float | None = None) -> None:
    """``torch.distributed.init_process_group``, also in a process started anew.

    torchrun keeps its store over the starts (seen with torch 2.13), and in it the
    addresses of processes that are dead; torch's own would try to reach these.

    Args:
        backend (str): ``nccl`` or ``gloo``.
        timeout (float, optional): Of collectives, in seconds. Defaults to torch's.
    """
    store, rank, size = next(rendezvous('env://'))
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore(f'start_{restarts()}', store),
        rank=rank,
        world_size=size,
        timeout=None if timeout is None else timedelta(seconds=timeout),
    )


def leave_process_group() -> None:
    """Destroy the default group, if there is one, after all that was built on it.

    Left to the interpreter's end, gloo's threads now and then abort a process whose
    work is done. Destroyed right away, the group often lives on in a model's
    ``DistributedDataParallel``, which joins those threads under Python's lock when it
    goes: one that has a tensor to drop waits for the lock, and both for ever
    (pytorch/pytorch#56297). So the last reference is one of here, let go of at exit,
    with Python's lock free.
    """
    if distributed.is_available() and distributed.is_initialized():
        _left.append(distributed.group.WORLD)
        atexit.register(_let_go, os.getpid())
        distributed.destroy_process_group()


def _let_go(pid: int) -> None:
    if os.getpid() == pid:  # a fork has none of the threads to join
        gc.collect()  # a model that is in a circle
        _left.clear()
