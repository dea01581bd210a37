"""A tiny training in a process of its own, which tests signal and kill.

``python training_jobs.py FOLDER [JSON]``; the JSON has the settings of :func:`main`.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.engine import ignore_signals_in_workers
from mobilevig_det.engine.launch import (
    init_process_group,
    leave_process_group,
    restarts,
)

import tiny_training as tiny
import torch
from mmengine.hooks import Hook

HELPERS = Path(__file__).parent
# Imported once by the fork server, which the benchmark's processes share.
PRELOAD = ['benchmarks', 'mmdet.models', 'torch._dynamo']


def _run_in_fork(folder, settings, environ):
    """Train in a fork of the fork server, which has imported all modules."""
    os.setsid()
    os.environ.update(environ)
    with open(folder / 'output.txt', 'ab') as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    main(folder, settings)


class Fork(ForkServerProcess):
    """A fork with the methods of subprocess.Popen that tests call."""

    def poll(self):
        return self.exitcode

    def wait(self, timeout=None):
        self.join(timeout)
        assert self.exitcode is not None, f'runs after {timeout} seconds'
        return self.exitcode


class Job:
    """A tiny training in its own process group, which :meth:`end` kills.

    Args:
        folder (Path): Folder of the run and of ``output.txt``.
        settings (dict): See :func:`main`.
        command (list, optional): Command that starts this script, such as torchrun.
            Defaults to None: a fork, which starts faster.
        **environ: Environment variables.
    """

    def __init__(self, folder, settings, command=None, **environ):
        self.folder, self.output = folder, None
        environ['OMP_NUM_THREADS'] = '1'
        if command is None:
            multiprocessing.get_context('forkserver').set_forkserver_preload(PRELOAD)
            self.process = Fork(target=_run_in_fork, args=(folder, settings, environ))
            self.process.start()
            return
        script = HELPERS / 'training_jobs.py'
        paths = [HELPERS.parents[1], HELPERS, os.environ.get('PYTHONPATH', '')]
        self.output = open(folder / 'output.txt', 'ab')
        self.process = subprocess.Popen(
            [*command, str(script), str(folder), json.dumps(settings)],
            start_new_session=True,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(map(str, paths)),
                **environ,
            },
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, name):
        """Wait until the file exists; return the process id in it."""
        path = self.folder / name
        end = time.monotonic() + 90
        while not (path.is_file() and path.read_text()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)
        return int(path.read_text())

    def group(self, number):
        os.killpg(self.process.pid, number)

    def wait(self, seconds=30):
        return self.process.wait(seconds)

    def text(self):
        return (self.folder / 'output.txt').read_text()

    def members(self):
        """Return the ids of the group's living processes."""
        found = []
        for stat in Path('/proc').glob('[0-9]*/stat'):
            try:
                state, _, group = stat.read_text().rpartition(')')[2].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state not in 'ZX':
                found.append(int(stat.parent.name))
        return found

    def wait_for_no_member(self):
        end = time.monotonic() + 10
        while self.members():
            assert time.monotonic() < end, self.members()
            time.sleep(0.05)

    def end(self):
        try:
            self.group(signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()  # it has no group yet
        self.process.wait()
        if self.output:
            self.output.close()


def position(folder):
    """Return epoch and iteration of the checkpoint that a resumed run would load."""
    run = folder / 'run'
    name = Path((run / 'last_checkpoint').read_text()).name
    meta = read_checkpoint(run / name)['meta']
    return meta['epoch'], meta['iter']


class ProgressHook(Hook):
    """Write a file for each event that a test may wait for, and slow the run down."""

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
    """Stop this process in the middle of writing a checkpoint."""
    real = os.fsync

    def fsync(handle):
        if os.readlink(f'/proc/self/fd/{handle}').endswith(f'/.{name}.part'):
            os.kill(os.getpid(), signal.SIGSTOP)
        real(handle)

    os.fsync = fsync


def main(folder, settings):
    """Train in ``folder/run``.

    Keys of ``settings``: ``workers``, ``epochs``, ``slow`` (seconds per iteration),
    ``hook`` and ``watchdog`` (arguments of our hooks), ``fail_at`` (an iteration, on
    the first start), ``stop_in_write`` (name of a checkpoint), ``resume``, and
    ``mmengine`` (use its checkpoint hook and loop instead of ours).
    """
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
    progress = ProgressHook(folder, settings.get('slow', 0.0), settings.get('fail_at'))

    def prepare(runner):
        runner.register_hook(progress)
        if 'stop_in_write' in settings:
            stop_in_write(settings['stop_in_write'])

    result = tiny.train(cfg, prepare=prepare)
    if result.runner.rank == 0:
        torch.save(result.losses, Path(folder) / 'losses.pth')
    if 'RANK' in os.environ:
        leave_process_group()


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
