"""Several processes over the same inputs, each with a share that fits its speed."""

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

from ..engine.launch import STOPPED, check_launcher, init_process_group
from ..errors import UserError
from .input_lists import PIPE
from .input_stream import Inputs

Input = TypeVar('Input')


class Processes:
    """The processes that a launcher has started; one, without a launcher.

    They talk over gloo, also where there are GPUs: no tensor goes from one to
    another. What they agree on are counters in torch's store.

    Args:
        launcher (str): 'none', or one of MMEngine's.

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
        """torchrun does this to all processes where one has died."""
        print(
            f'Process {self.rank} was stopped; the same command with --resume goes on.',
            file=sys.stderr,
        )
        sys.exit(STOPPED)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """This process's device.

        Raises:
            UserError: If one GPU is asked for, for all of them.
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
        """Add to a counter that all processes share; what it is then."""
        if self.size == 1:
            self._counters[name] += number
            return self._counters[name]
        return distributed_c10d._get_default_store().add(name, number)

    def share(self, inputs: Iterable[Input], few: int, name: str) -> Iterator[Input]:
        """Some of the inputs, a few at a time, as fast as they are asked for; no
        input goes to two processes.

        Args:
            inputs (Iterable): The same ones in each process, in the same order.
            few (int): So many are taken at a time.
            name (str): Of the counter.
        """
        start = end = 0
        for number, input in enumerate(inputs):
            if number >= end:
                end = self.add(name, few)
                start = end - few
            if number >= start:
                yield input

    def wait(self) -> None:
        """Until all processes are here. One that died is an error, at once."""
        if self.size > 1:
            distributed.monitored_barrier(timeout=timedelta(days=99))

    def leave_interrupts(self) -> None:
        """After a Ctrl-C, which torchrun passes on once more, let the first process
        write what is done."""
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
                'The processes see other inputs: name files that all machines see, '
                'and that do not change meanwhile.'
            )


class SharedProgress:
    """The first process's bar, which counts what all of them do.

    Args:
        processes (Processes): They.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._bar = tqdm(disable=True)
        self._before = 0

    def begin(self, total: int | None, before: int) -> None:
        """Show the bar.

        Args:
            total (int | None): So many images and frames there are, if known.
            before (int): So many were done by earlier runs.
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
    """torchrun gives each process one thread, however many cores there are."""
    if os.environ.get('OMP_NUM_THREADS') == '1':
        allowed = getattr(os, 'sched_getaffinity', None)  # Linux
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        torch.set_num_threads(max(1, cores // here))
