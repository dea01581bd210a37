"""A tiny training in a process of its own, to be signalled and killed.

``python tiny_process.py WORK_DIR [JSON]``; of the settings see ``main``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from mobilevig_det.engine import ignore_signals_in_workers
from mobilevig_det.engine.launch import (
    init_process_group,
    leave_process_group,
    restarts,
)

import tiny_training as tiny
import torch
from mmengine.hooks import Hook


class Say(Hook):
    """Leaves a file for each thing that a test may wait for; slows down."""

    priority = 'LOWEST'

    def __init__(self, folder, slow, fail_at):
        self.folder, self.slow, self.fail_at = Path(folder), slow, fail_at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        (self.folder / f'iter_{runner.iter + 1}.{runner.rank}').write_text(
            str(os.getpid())
        )
        if runner.iter + 1 == self.fail_at and not restarts():
            os.kill(os.getpid(), 9)
        time.sleep(self.slow)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        (self.folder / f'val_{runner.iter}.{runner.rank}').write_text(str(os.getpid()))
        time.sleep(self.slow)


def stop_in_write(name):
    """The process that writes that checkpoint stops in the middle of it."""
    real = os.fsync

    def fsync(handle):
        if os.readlink(f'/proc/self/fd/{handle}').endswith(f'/.{name}.part'):
            os.kill(os.getpid(), signal.SIGSTOP)
        real(handle)

    os.fsync = fsync


def main(folder, settings):
    """``workers``, ``epochs``, ``slow`` (seconds an iteration), ``hook`` and
    ``watchdog`` (arguments of ours), ``fail_at`` (an iteration, in the first start),
    ``stop_in_write`` (a checkpoint), ``resume``, ``mmengine`` (its own checkpoint hook
    and loop)."""
    torch.set_num_threads(1)
    cfg = tiny.config(
        Path(folder) / 'run',
        epochs=settings.get('epochs', 3),
        workers=settings.get('workers', 0),
        resume=settings.get('resume', False) or restarts() > 0,
    )
    cfg['default_hooks'].update(
        stop_on_signal=dict(type='StopOnSignalHook', **settings.get('hook', {})),
        hang_watchdog=dict(type='HangWatchdogHook', **settings.get('watchdog', {})),
    )
    if settings.get('mmengine'):
        cfg['default_hooks']['checkpoint'] = dict(type='CheckpointHook')
        cfg['train_cfg']['type'] = 'EpochBasedTrainLoop'
    if 'RANK' in os.environ:
        init_process_group('gloo')
        cfg.update(
            launcher='pytorch',
            cfg=dict(
                model_wrapper_cfg=dict(
                    type='MMDistributedDataParallel',
                    device_ids=None,
                    broadcast_buffers=False,
                )
            ),
        )
    ignore_signals_in_workers(cfg)
    cfg['log_level'] = 'WARNING'
    say = Say(folder, settings.get('slow', 0.0), settings.get('fail_at'))

    def prepare(runner):
        runner.register_hook(say)
        if 'stop_in_write' in settings:
            stop_in_write(settings['stop_in_write'])

    result = tiny.train(cfg, prepare=prepare)
    if result.runner.rank == 0:
        torch.save(result.losses, Path(folder) / 'losses.pth')
    if 'RANK' in os.environ:
        leave_process_group()


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
