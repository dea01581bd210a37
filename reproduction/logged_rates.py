"""The learning rates of a config beside those that the authors' runs logged."""

import csv
import gzip
from collections.abc import Iterator
from types import SimpleNamespace

from mobilevig_det.evaluation.run_log import PUBLISHED_ROOT

import torch
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

ITERATIONS = 14659  # of 4 GPUs x 2 images an epoch, in both logs


def rates(cfg: Config) -> Iterator[float]:
    """The rate of every iteration, as the config's schedulers leave it."""
    model = torch.nn.Linear(1, 1, bias=False)  # without a gradient
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    runner = SimpleNamespace(
        param_schedulers=[
            PARAM_SCHEDULERS.build(
                dict(scheduler),
                default_args=dict(optimizer=wrapper, epoch_length=ITERATIONS),
            )
            for scheduler in cfg.param_scheduler
        ]
    )
    (group,) = wrapper.param_groups
    hook = ParamSchedulerHook()
    wrapper.step()  # once, as schedulers want one before theirs
    for _ in range(cfg.train_cfg.max_epochs):
        for i in range(ITERATIONS):
            yield group['lr']
            hook.after_train_iter(runner, i)
        hook.after_train_epoch(runner)


def logged(arch: str) -> list[dict[str, str]]:
    """Every row of the authors' log of 'm' or 'b': epoch, iter and lr."""
    path = PUBLISHED_ROOT / f'coco_1x_{arch}_rate.csv.gz'
    with gzip.open(path, 'rt') as file:
        return list(csv.DictReader(file))


def rates_met(cfg: Config, arch: str) -> int:
    """How many of the log's rates the config has, to every digit there."""
    found = list(rates(cfg))
    met = 0
    for row in logged(arch):
        # A row is printed after the iteration of that number, from 1.
        i = (int(row['epoch']) - 1) * ITERATIONS + int(row['iter']) - 1
        met += i < len(found) and f'{found[i]:.3e}' == row['lr']
    return met
