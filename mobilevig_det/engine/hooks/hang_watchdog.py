"""Abort the job when a rank has died or stalls."""

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

from ..launch import HUNG

_AFTER_CHECKPOINTS = 95  # priority: after CheckpointHook, before the lowest


@HOOKS.register_module()
class HangWatchdogHook(Hook):
    """End this process when a training iteration takes far too long.

    With several ranks, collectives wait for a stalled rank for half an hour (torch's
    timeout). This ends the rank that waits with a message and exit code 4, and
    torchrun then ends the others. There is no limit for the first iteration, for
    validation, and for the first batch of an epoch.

    The limit for a checkpoint of DurableCheckpointHook is ten times the longest one so
    far, or ``seconds`` if that is more.

    Args:
        seconds (float): Limit for an iteration with the loading of its data, in
            seconds. Defaults to 60.
        saving_seconds (float): Limit for the hooks after an iteration, and for the
            first checkpoint, in seconds. Defaults to 600.
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
        """Start the watching thread, if there are several ranks."""
        if get_world_size() == 1 or self._ended:
            return
        after_checkpoints = Hook()  # as a hook has one priority
        after_checkpoints.after_train_iter = self._begin_iteration
        runner.register_hook(after_checkpoints, _AFTER_CHECKPOINTS)
        self._ended = threading.Event()
        args = (runner, self._ended)
        threading.Thread(target=self._watch, args=args, daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        """Stop the watching thread."""
        self._limit = None
        if self._ended:
            self._ended.set()
            self._ended = None

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Set the iteration's limit, if an epoch or a validation has removed it."""
        if self._iterations and self._limit is None:
            self._begin_iteration()

    def _begin_iteration(self, *args, **kwargs) -> None:
        self.begin(self.seconds, 'not finished')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Set the limit for checkpoints and other hooks."""
        self._iterations += 1
        self.begin(self.saving_seconds, 'done, but what follows it is not')

    def after_train_epoch(self, runner) -> None:
        """Remove the limit: the next batch may take any time."""
        self._limit = None

    def before_val(self, runner) -> None:
        """Remove the limit: a validation may take any time."""
        self._limit = None

    def begin(self, seconds: float, what: str) -> None:
        """Set a limit from now on, instead of the present one."""
        self._limit = time.monotonic() + seconds, seconds, what

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Limit the time for a checkpoint; then continue with the present limit."""
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
                    'or hangs; see its messages. This process ends with exit code '
                    f'{HUNG}. Resume with --resume. If it does need more time, set '
                    'HangWatchdogHook(seconds=..., saving_seconds=...).',
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(HUNG)


@contextmanager
def watched_save(runner: Runner) -> Iterator[None]:
    """Enter :meth:`HangWatchdogHook.saving`, if the runner has that hook."""
    hooks = (hook for hook in runner.hooks if isinstance(hook, HangWatchdogHook))
    watchdog = next(hooks, None)
    if watchdog is None:
        yield
        return
    with watchdog.saving():
        yield
