"""Dynamic work sharing between the processes that torchrun or Slurm has started."""

import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine.dist import init_dist
from torch import distributed
from torch.distributed import distributed_c10d
from tqdm import tqdm

from ...engine.launch import STOPPED, check_launcher, init_process_group
from ...errors import UserError
from ..lists_and_shards import PIPE
from ..sources import Inputs

Item = TypeVar('Item')


class Processes:
    """The processes that a launcher has started, or only this one.

    They use gloo, even with GPUs, since no tensors are exchanged: only counters in
    torch's store.

    Args:
        launcher (str): 'none', or one of MMEngine's.

    Attributes:
        rank (int): Of this process.
        size (int): Number of processes.

    Raises:
        UserError: If the launcher has not started this process.
    """

    def __init__(self, launcher: str) -> None:
        self.rank, self.size = 0, 1
        self._counters: Counter[str] = Counter()
        if launcher == 'none':
            return
        check_launcher(launcher)
        if launcher == 'pytorch':
            if torch.cuda.is_available():
                torch.cuda.set_device(_local_rank())
            else:
                _share_cores()
            init_process_group('gloo')
        else:
            init_dist(launcher, backend='gloo')
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        """torchrun terminates all processes when one has died."""
        print(
            f'Process {self.rank} was stopped; the same command with --resume resumes '
            'the run.',
            file=sys.stderr,
        )
        sys.exit(STOPPED)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Return this process's device.

        Raises:
            UserError: If one GPU is asked for, for all processes.
        """
        if self.size == 1:
            return asked
        if asked and ':' in asked:
            raise UserError(
                f'--device {asked}: each process has a GPU of its own. Leave the flag '
                'out; CUDA_VISIBLE_DEVICES chooses GPUs.'
            )
        if asked != 'cpu' and torch.cuda.is_available():
            return f'cuda:{_local_rank()}'
        return asked

    def add(self, name: str, number: int) -> int:
        """Add to a counter that all processes share; return its new value."""
        if self.size == 1:
            self._counters[name] += number
            return self._counters[name]
        return distributed_c10d._get_default_store().add(name, number)

    def share(self, items: Iterable[Item], chunk: int, name: str) -> Iterator[Item]:
        """Yield some of the items, chunk by chunk, as fast as they are consumed; no
        item goes to two processes.

        Args:
            items (Iterable): The same items in each process, in the same order.
            chunk (int): How many are taken at a time.
            name (str): Of the counter.
        """
        start = end = 0
        for number, item in enumerate(items):
            if number >= end:
                end = self.add(name, chunk)
                start = end - chunk
            if number >= start:
                yield item

    def wait(self) -> None:
        """Wait for all processes. One that died raises an error at once."""
        if self.size > 1:
            distributed.monitored_barrier(timeout=timedelta(days=99))

    def leave_interrupts(self) -> None:
        """Ignore further interrupts, of which torchrun passes on a second one, so that
        the first process can write what is done."""
        if self.size > 1:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check_inputs(self, inputs: Inputs) -> None:
        """Raise a UserError if the first process has other inputs than this one."""
        if self.size == 1:
            return
        if PIPE in inputs.streams:
            raise UserError(
                'Several processes cannot share a pipe: write its names into a file, '
                'names.txt, and give that.'
            )
        digest = hashlib.sha256()
        for name in inputs.described():
            digest.update(name.encode(errors='surrogatepass') + b'\0')
        names = digest.hexdigest()
        store = distributed_c10d._get_default_store()
        if self.first:
            store.set('inputs', names)
        elif store.get('inputs').decode() != names:
            raise UserError(
                'The processes see different inputs: name files that all machines see, '
                'and that do not change meanwhile.'
            )


class SharedProgress:
    """The first process's progress bar, which counts the images of all processes.

    Args:
        processes (Processes): The processes.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._bar = tqdm(disable=True)
        self._before = 0

    def begin(self, total: int | None, before: int) -> None:
        """Show the bar.

        Args:
            total (int | None): Number of images and frames, if known.
            before (int): How many were done by earlier runs.
        """
        self._before = before if total is None else min(before, total)
        if self._processes.first:
            self._bar = tqdm(total=total, initial=self._before, unit='image')

    def update(self, number: int = 1) -> None:
        done = self._processes.add('progress', number)
        self._bar.update(self._before + done - self._bar.n)

    def __enter__(self) -> 'SharedProgress':
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _local_rank() -> int:
    return int(os.environ.get('LOCAL_RANK', 0))


def _share_cores() -> None:
    """Use all cores, for torchrun sets one thread per process."""
    if os.environ.get('OMP_NUM_THREADS') == '1':
        allowed = getattr(os, 'sched_getaffinity', None)  # Linux
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        torch.set_num_threads(max(1, cores // here))
