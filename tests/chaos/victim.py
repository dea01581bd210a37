"""A small training in a forked process, whose every number outlives it."""

import ctypes
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

# What a training imports late: here once, and not in every fork.
import matplotlib.pyplot  # noqa: F401
import mmcv.ops  # noqa: F401
import tiny_training as tiny
import torch
import torch._dynamo
from kill_points import Kill, KillInValidation, arm
from mmengine.hooks import Hook

tiny.LENGTH = 50
EPOCHS, PER_EPOCH = 5, tiny.LENGTH // tiny.BATCH
ITERATIONS = EPOCHS * PER_EPOCH
CLOCK = 0.06  # seconds between two checkpoints by the clock
PAUSE = 0.005  # of each iteration, so that random moments fall into epochs

_shared = multiprocessing.get_context('fork').RawArray


class Numbers:
    """What a training says, in memory that a killed process leaves behind."""

    def __init__(self) -> None:
        self.first = _shared(ctypes.c_int64, 1)  # the last start's first iteration
        self.done = _shared(ctypes.c_int64, 1)  # iterations
        self.losses = _shared(ctypes.c_double, ITERATIONS)
        self.metrics = _shared(ctypes.c_double, EPOCHS)

    def seen(self) -> tuple[list, list]:
        """Every loss, and every validation's metric."""
        return list(self.losses), list(self.metrics)


class Say(Hook):
    priority = 'HIGHEST'  # before the checkpoint hook may be killed

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    def before_train(self, runner):
        self.numbers.first[0] = self.numbers.done[0] = runner.iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.numbers.losses[runner.iter] = outputs['loss'].item()
        self.numbers.done[0] = runner.iter + 1
        time.sleep(PAUSE)

    def after_val_epoch(self, runner, metrics=None):
        self.numbers.metrics[runner.iter // PER_EPOCH - 1] = metrics['acc']


def config(folder: Path, workers: int, stock: bool) -> dict:
    """Ours, or MMEngine's own hook and loop: both by epoch, two kept."""
    cfg = tiny.config(folder / 'run', epochs=EPOCHS, workers=workers, resume=True)
    hook = cfg['default_hooks']['checkpoint']
    hook.update(max_keep_ckpts=2, minutes=CLOCK / 60)
    if stock:
        cfg['train_cfg']['type'] = 'EpochBasedTrainLoop'
        hook['type'] = 'CheckpointHook'
        del hook['minutes']
    return cfg


def start(
    folder: Path, numbers: Numbers, kill: Kill | None, workers: int, stock: bool
) -> int:
    """Fork a process, of a group of its own, that trains and leaves its weights in
    ``folder/end.pth``.

    Returns:
        int: Its id. It ends with 0, by SIGKILL, or with 1 and ``folder/error.txt``.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        _train(folder, numbers, kill, workers, stock)
        code = 0
    except BaseException:
        (folder / 'error.txt').write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _train(folder, numbers, kill, workers, stock) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)

    def prepare(runner):
        runner.register_hook(Say(numbers))
        if kill is not None:
            runner.register_hook(KillInValidation(kill))
            arm(kill)

    result = tiny.train(config(folder, workers, stock), prepare=prepare)
    torch.save(result.weights, folder / 'end.pth')
