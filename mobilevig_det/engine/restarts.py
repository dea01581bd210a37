"""What torchrun starts anew, after a process has died."""

import os
from datetime import timedelta

from torch import distributed
from torch.distributed.rendezvous import rendezvous


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
