"""The end of a process group."""

import atexit
import gc
import os

import torch.distributed as dist

_left: list = []


def leave_process_group() -> None:
    """Destroy the default group, if there is one, after all that was built on it.

    Left to the interpreter's end, gloo's threads now and then abort a process whose
    work is done. Destroyed right away, the group often lives on in a model's
    ``DistributedDataParallel``, which joins those threads under Python's lock when it
    goes: one that has a tensor to drop waits for the lock, and both for ever
    (pytorch/pytorch#56297). So the last reference is one of here, let go of at exit,
    with Python's lock free.
    """
    if dist.is_available() and dist.is_initialized():
        _left.append(dist.group.WORLD)
        atexit.register(_let_go, os.getpid())
        dist.destroy_process_group()


def _let_go(pid: int) -> None:
    if os.getpid() == pid:  # a fork has none of the threads to join
        gc.collect()  # a model that is in a circle
        _left.clear()
