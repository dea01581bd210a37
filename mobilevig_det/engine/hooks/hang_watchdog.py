"""A process that waits for a dead or hung one ends, and the job with it."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..exit_codes import HUNG

_AFTER_CHECKPOINTS = 95  # priority between CheckpointHook's and the lowest


@HOOKS.register_module()
class HangWatchdogHook(Hook):
    """Ends this process where a training iteration takes far too long.

    In runs of several processes, collectives wait for a hung process for half an
    hour (torch's timeout). This ends the one that waits with a message and exit code
    4, and torchrun then ends the others. The first iteration may take any time, as
    may validation and the first batch of an epoch.

    How long DurableCheckpointHook may take for a checkpoint is known from those
    before: ten times the longest, or ``seconds`` where that is more.

    Args:
        seconds (float): The longest that an iteration may take, with the loading
            of its data. Defaults to 60.
        saving_seconds (float): The longest that hooks may take after an iteration,
            and that a checkpoint may take at all, as the first. Defaults to 600.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is written

    def __init__(self, seconds: float = 60.0, saving_seconds: float = 600.0) -> None:
        self.seconds = seconds
        self.saving_seconds = saving_seconds
        self._limit: tuple[float, float, str] | None = None  # when, seconds, what
        self._longest_save: float | None = None
        self._iterations = 0
        self._ended: threading.Event | None = None

    def before_train(self, runner: Runner) -> None:
        """Start to watch."""
        if get_world_size() == 1 or self._ended:
            return
        runner.register_hook(_AfterCheckpoints(self), _AFTER_CHECKPOINTS)
        self._ended = threading.Event()
        args = (runner, self._ended)
        threading.Thread(target=self._watch, args=args, daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        """Stop watching."""
        self._limit = None
        if self._ended:
            self._ended.set()
            self._ended = None

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Where none runs yet (an epoch begins, a validation was), begin one."""
        if self._iterations and self._limit is None:
            self.begin(self.seconds, 'not finished')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Give checkpoints their time."""
        self._iterations += 1
        self.begin(self.saving_seconds, 'done, but what follows it is not')

    def after_train_epoch(self, runner) -> None:
        """Nothing is watched outside of iterations."""
        self._limit = None

    def before_val(self, runner) -> None:
        """The same."""
        self._limit = None

    def begin(self, seconds: float, what: str) -> None:
        """Watch from now on, in place of what was watched."""
        self._limit = time.monotonic() + seconds, seconds, what

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Watch a checkpoint, and then what was watched before."""
        before, began = self._limit, time.monotonic()
        limit = self.saving_seconds
        if self._longest_save is not None:
            limit = min(limit, max(self.seconds, 10 * self._longest_save))
        self.begin(limit, 'done, but its checkpoint is not')
        try:
            yield
        finally:
            took = time.monotonic() - began
            self._longest_save = max(took, self._longest_save or 0.0)
            self._limit = before and (before[0] + took, *before[1:])

    def _watch(self, runner: Runner, ended: threading.Event) -> None:
        step = min(1.0, self.seconds / 4)
        looked = time.monotonic()
        while not ended.wait(step):
            now, asleep = time.monotonic(), 0.0
            if now - looked > 5 * step:  # this process itself was stopped (Ctrl-Z)
                asleep = now - looked
            looked, limit = now, self._limit
            if limit is None:
                continue
            until, seconds, what = limit
            if asleep:
                self._limit = until + asleep, seconds, what
            elif now > until:
                print(
                    f'Process {runner.rank}: iteration {runner.iter + 1} is {what} '
                    f'after {seconds:g} s. Another process (or a loader worker) died '
                    'or hangs; see its messages. This one ends, with exit code '
                    f'{HUNG}; go on with --resume. If it does take so long: '
                    'HangWatchdogHook(seconds=..., saving_seconds=...).',
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(HUNG)


@contextmanager
def watched_save(runner: Runner) -> Iterator[None]:
    """:meth:`HangWatchdogHook.saving` of the runner's, where it has one."""
    hooks = (hook for hook in runner.hooks if isinstance(hook, HangWatchdogHook))
    watchdog = next(hooks, None)
    if watchdog is None:
        yield
        return
    with watchdog.saving():
        yield


class _AfterCheckpoints(Hook):
    """The watchdog's part after the checkpoints: a hook has one priority."""

    def __init__(self, watchdog: HangWatchdogHook) -> None:
        self.watchdog = watchdog

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.watchdog.begin(self.watchdog.seconds, 'not finished')
