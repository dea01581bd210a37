"""SIGTERM and Ctrl-C: save, and say how to go on."""

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..exit_codes import STOPPED
from ..launch import leave_process_group
from .durable_checkpoint import DurableCheckpointHook

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One Ctrl-C may come twice, from the terminal and from torchrun.
_SAME_SIGNAL_SECONDS = 2.0


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Ends a training on SIGTERM or Ctrl-C with a checkpoint, and exit code 143.

    The signal only sets a flag. After the iteration all processes agree, save and
    exit; in a validation they exit at once, as the checkpoint from before it is
    there. A second signal, some seconds later, ends the process without saving.

    Its loaders need :func:`mobilevig_det.engine.ignore_signals`.

    Args:
        seconds (float): In runs of several processes, the longest time from the
            signal to the end. A process that waits for a dead one reaches no end
            of an iteration: then it ends without a new checkpoint. torchrun and
            Slurm kill after 30. Defaults to 20.
    """

    priority = 'LOWEST'  # when the schedules have stepped

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self._asked = False
        self._old_handlers: dict = {}
        self._old_wakeup = -1
        self._ends: tuple[socket.socket, ...] = ()

    # Signals come and are kept

    def before_train(self, runner: Runner) -> None:
        """Take the signals over, where Python allows it."""
        if self._ends or threading.current_thread() is not threading.main_thread():
            return
        self._asked = False
        self._train = type(runner).train.__code__
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._old_handlers = {
            number: signal.signal(number, self._on_signal) for number in _SIGNALS
        }
        # Handlers don't run while the main thread waits in a collective. The
        # numbers arrive here all the same.
        self._old_wakeup = signal.set_wakeup_fd(
            self._ends[1].fileno(), warn_on_full_buffer=False
        )
        threading.Thread(target=self._watch, args=(runner,), daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        if not self._ends:
            return
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        ends, self._ends = self._ends, ()
        ends[1].close()  # ends the watching thread, which closes the other

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        while frame is not None:
            if frame.f_code is self._train:
                return
            frame = frame.f_back
        # An error ended the training without after_train, as in a notebook.
        self._asked = False
        self._give_back()
        os.kill(os.getpid(), number)

    def _watch(self, runner: Runner) -> None:
        """In a thread: the second signal, and the deadline of the first."""
        receiver = self._ends[0]
        several = get_world_size() > 1
        first: float | None = None
        while True:
            wait = None
            if several and first is not None:
                wait = max(0.0, first + self.seconds - time.monotonic())
            if not select.select([receiver], [], [], wait)[0]:
                self._give_up(
                    runner, f'{self.seconds:g} s after the signal it still waits'
                )
            received = receiver.recv(64)
            if not received:  # given back
                receiver.close()
                return
            if not set(received) & set(_SIGNALS):
                continue  # SIGCHLD and others that Python handles
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > _SAME_SIGNAL_SECONDS:
                self._give_up(runner, 'A second signal')

    def _give_up(self, runner: Runner, why: str) -> None:
        last = _last_checkpoint(runner)
        text = f'the last one is {last}' if last else 'there is none'
        print(
            f'{why}: process {runner.rank} ends without a new checkpoint; {text}.',
            file=sys.stderr,
            flush=True,
        )
        os._exit(STOPPED)

    # Where it may stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Save and exit, if any process was asked to."""
        self._maybe_stop(runner, by_epoch=False)

    def after_train_epoch(self, runner) -> None:
        """The same, for a signal that came in a checkpoint's writing."""
        self._maybe_stop(runner, by_epoch=True)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Exit: the checkpoint from before the validation is there."""
        if self._asked:
            self._exit(runner, _last_checkpoint(runner))

    def _maybe_stop(self, runner: Runner, by_epoch: bool) -> None:
        asked = torch.tensor([int(self._asked)])
        if get_world_size() > 1:
            all_reduce(asked, 'max')
        if not asked:
            return
        path = _save(runner, by_epoch)
        if get_world_size() > 1:
            leave_process_group()  # all are here
        self._exit(runner, path)

    def _exit(self, runner: Runner, path: str | None) -> None:
        if runner.rank == 0:
            where = (
                f'The training is in {path}. To go on, give the same command with '
                '--resume (or resume=True in the config).'
                if path
                else 'No checkpoint was written.'
            )
            runner.logger.log(logging.WARNING, f'Stopped by a signal. {where}')
        sys.exit(STOPPED)


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return next(hooks, None)


def _last_checkpoint(runner: Runner) -> str | None:
    return getattr(_checkpoint_hook(runner), 'last_ckpt', None)


def _save(runner: Runner, by_epoch: bool) -> str | None:
    """A checkpoint of this point, by all processes together; its path on the first."""
    hook = _checkpoint_hook(runner)
    if isinstance(hook, DurableCheckpointHook):
        return hook.save_now(runner, together=True)
    # MMEngine's own hook. In the middle of an epoch its loop begins the epoch again.
    name = f'stopped_iter_{runner.iter + (not by_epoch)}.pth'
    runner.save_checkpoint(runner.work_dir, name, by_epoch=by_epoch)
    path = os.path.join(runner.work_dir, name)
    if is_main_process():
        with open(os.path.join(runner.work_dir, 'last_checkpoint'), 'w') as file:
            file.write(path)
    return path
