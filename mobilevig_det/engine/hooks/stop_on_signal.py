"""Save a checkpoint and exit on SIGTERM or Ctrl-C."""

import functools
import logging
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import warnings
from types import FrameType

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import FUNCTIONS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import get_worker_info

from ...io import atomic_write_text
from ..checkpoint_files import POINTER
from ..launch import STOPPED, leave_process_group
from .durable_checkpoint import DurableCheckpointHook

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One Ctrl-C may arrive twice, from the terminal and from torchrun.
_SAME_SIGNAL_SECONDS = 2.0
_PARENT_CHECK_SECONDS = 1.0
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_OF_WORKERS = {
    *('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')
}


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """End a training on SIGTERM or Ctrl-C with a checkpoint and exit code 143.

    The signal only sets a flag. After the iteration all ranks agree, save and exit;
    in a validation they exit at once, as there is a checkpoint from before it. A
    second signal, more than two seconds later, ends the process without saving.

    The data loaders need :func:`mobilevig_det.engine.ignore_signals`.

    Args:
        seconds (float): With several ranks, the longest time from the signal to the
            end in seconds. A rank that waits for a dead one never finishes its
            iteration, so it then exits without a new checkpoint. torchrun and Slurm
            kill after 30 s. Defaults to 20.
    """

    priority = 'LOWEST'  # after the parameter schedulers' step

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self._stop_requested = False
        self._old_handlers: dict = {}
        self._old_wakeup = -1
        self._sockets: tuple[socket.socket, ...] = ()

    # Signal handling

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers, if this is the main thread."""
        if self._sockets or threading.current_thread() is not threading.main_thread():
            return
        self._stop_requested = False
        self._train = type(runner).train.__code__
        self._sockets = socket.socketpair()
        for end in self._sockets:
            end.setblocking(False)
        _register_fork_handlers()
        _installed.append(self)
        self._old_handlers = {
            number: signal.signal(number, self._on_signal) or signal.SIG_DFL
            for number in _SIGNALS
        }
        # Handlers don't run while the main thread waits in a collective. The
        # signals' numbers arrive here all the same.
        self._old_wakeup = signal.set_wakeup_fd(
            self._sockets[1].fileno(), warn_on_full_buffer=False
        )
        threading.Thread(target=self._watch, args=(runner,), daemon=True).start()

    def after_train(self, runner: Runner) -> None:
        """Restore the previous signal handlers."""
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        if not self._sockets:
            return
        _installed.remove(self)
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        sockets, self._sockets = self._sockets, ()
        sockets[1].close()  # ends the watching thread, which closes the other

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_requested = True
        while frame is not None:
            if frame.f_code is self._train:
                return
            frame = frame.f_back
        # An error ended the training without after_train, as in a notebook.
        self._stop_requested = False
        self._restore_handlers()
        os.kill(os.getpid(), number)

    def _watch(self, runner: Runner) -> None:
        """In a thread: wait for a second signal, or the deadline of the first."""
        receiver = self._sockets[0]
        several = get_world_size() > 1
        first: float | None = None
        while True:
            wait = None
            if several and first is not None:
                wait = max(0.0, first + self.seconds - time.monotonic())
            if not select.select([receiver], [], [], wait)[0]:
                self._give_up(
                    runner, f'The iteration is not finished {self.seconds:g} s later'
                )
            received = receiver.recv(64)
            if not received:  # the handlers were restored
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

    # Stopping

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Save and exit, if a rank has received a signal."""
        self._maybe_stop(runner, by_epoch=False)

    def after_train_epoch(self, runner) -> None:
        """Likewise, for a signal that came while a checkpoint was written."""
        self._maybe_stop(runner, by_epoch=True)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Exit: there is a checkpoint from before the validation."""
        if self._stop_requested:
            self._exit(runner, _last_checkpoint(runner))

    def _maybe_stop(self, runner: Runner, by_epoch: bool) -> None:
        requested = torch.tensor([int(self._stop_requested)])
        if get_world_size() > 1:
            all_reduce(requested, 'max')
        if not requested:
            return
        path = _save(runner, by_epoch)
        if get_world_size() > 1:
            leave_process_group()  # all ranks are here
        self._exit(runner, path)

    def _exit(self, runner: Runner, path: str | None) -> None:
        if runner.rank == 0:
            where = (
                f'The training is saved in {path}. To resume, run the same command '
                'with --resume (or resume=True in the config).'
                if path
                else 'No checkpoint was written.'
            )
            runner.logger.log(logging.WARNING, f'Stopped by a signal. {where}')
        sys.exit(STOPPED)


_installed: list[StopOnSignalHook] = []  # whose handlers this process has
_forking = threading.local()


@functools.cache
def _register_fork_handlers() -> None:
    """Give processes that are forked during a training the earlier handlers back.

    With ours, a process of a metric's ``multiprocessing.Pool`` would ignore the SIGTERM
    that is to end it, and its parent would wait forever and take the signal for its
    own. Signals are blocked in between, so that none gets lost.
    """
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(
            before=_block_signals,
            after_in_parent=_unblock_signals,
            after_in_child=_restore_in_child,
        )


def _block_signals() -> None:
    if _installed:
        _forking.mask = [signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)]


def _unblock_signals() -> None:
    if mask := _forking.__dict__.pop('mask', None):
        signal.pthread_sigmask(signal.SIG_SETMASK, mask[0])


def _restore_in_child() -> None:
    while _installed:
        hook = _installed[-1]
        receiver = hook._sockets[0]
        hook._restore_handlers()
        receiver.close()  # the thread that closes it is not in this process
    _unblock_signals()


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    return next(hooks, None)


def _last_checkpoint(runner: Runner) -> str | None:
    return getattr(_checkpoint_hook(runner), 'last_ckpt', None)


def _save(runner: Runner, by_epoch: bool) -> str | None:
    """Save a checkpoint by all ranks together; return its path on the first."""
    hook = _checkpoint_hook(runner)
    if isinstance(hook, DurableCheckpointHook):
        return hook.save_now(runner)
    # MMEngine's own hook. In the middle of an epoch its loop repeats the epoch.
    name = f'stopped_iter_{runner.iter + (not by_epoch)}.pth'
    runner.save_checkpoint(runner.work_dir, name, by_epoch=by_epoch)
    path = os.path.join(runner.work_dir, name)
    if is_main_process():
        atomic_write_text(os.path.join(runner.work_dir, POINTER), path)
    return path


@FUNCTIONS.register_module()
def ignore_signals(worker_id: int, disable_subprocess_warning: bool = False) -> None:
    """``worker_init_fn`` that makes a DataLoader worker ignore SIGTERM and SIGINT.

    torchrun, Slurm and Ctrl-C signal a process group. Its workers would die first, and
    for each of them torch raises an error in the training, which then can't save. The
    worker still ends when its parent terminates it, and within seconds after its
    parent has gone, even by SIGKILL. As this replaces MMEngine's function, it seeds
    Python, NumPy and torch by torch's seed of the worker and by the rank.

    Args:
        worker_id (int): The worker's index.
        disable_subprocess_warning (bool): As in MMEngine: show warnings of the first
            worker only. Defaults to False.
    """
    info = get_worker_info()
    assert info is not None, 'not in a DataLoader worker'
    # The generators of all ranks are equal, as a rule, so the rank is added.
    seed = info.seed + info.num_workers * get_rank()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
    if disable_subprocess_warning and worker_id != 0:
        warnings.simplefilter('ignore')
    parent = os.getppid()
    if hasattr(signal, 'sigtimedwait'):
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    else:  # macOS and Windows don't tell who sent a SIGTERM
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent(parent: int) -> None:
    """End this process if its parent signals it, or has gone."""
    while os.getppid() == parent:
        received = signal.sigtimedwait(_SIGNALS, _PARENT_CHECK_SECONDS)
        if received and received.si_pid == parent:
            break
    os._exit(0)


def ignore_signals_in_workers(cfg: Config) -> None:
    """Add :func:`ignore_signals` to a config's loaders that have no ``worker_init_fn``.

    Settings of workers are removed where ``num_workers`` is 0: torch refuses them.

    Args:
        cfg (Config): The config of a run; changed in place.
    """
    for name in _LOADERS:
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        if not loader.get('num_workers'):
            for setting in _OF_WORKERS:
                loader.pop(setting, None)
        elif 'worker_init_fn' not in loader:
            loader['worker_init_fn'] = dict(
                type='mobilevig_det.engine.ignore_signals',
                # MMEngine removes it from the loader for its own function only.
                disable_subprocess_warning=loader.pop(
                    'disable_subprocess_warning', False
                ),
            )
