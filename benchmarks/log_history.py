"""What the history of the log costs, early and late in a training."""

import pickle
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

from mobilevig_det.engine import BoundedRuntimeInfoHook

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

from .turns import in_turns

STOCK = "MMEngine's"
HOOKS = {STOCK: RuntimeInfoHook, 'ours': BoundedRuntimeInfoHook}
ITERATIONS = (100, 170_000)
LOSSES = 9  # of Mask R-CNN, with their sum and the accuracy


def make_logging(args: Namespace, iteration: int, name: str):
    """One iteration's numbers into the histories of so many iterations."""
    hub = MessageHub('benchmark')
    random = np.random.default_rng(0)
    outputs = {f'loss_{i}': torch.rand((), device=args.device) for i in range(LOSSES)}
    for key in (*outputs, 'lr', 'time', 'data_time'):
        values = random.random(iteration)
        hub.log_scalars[f'train/{key}'] = HistoryBuffer(values, np.ones_like(values))
        hub.update_scalar(f'train/{key}', 0.5)
    runner = SimpleNamespace(message_hub=hub, log_processor=LogProcessor(50))
    hook = HOOKS[name]()

    def run():
        for key in ('lr', 'time', 'data_time'):
            hub.update_scalar(f'train/{key}', 0.5)
        hook.after_train_iter(runner, 0, None, outputs)

    run()
    checkpoint = dict(message_hub=hub.state_dict())
    hook.before_save_checkpoint(runner, checkpoint)
    size = len(pickle.dumps(checkpoint['message_hub']['log_scalars']))
    note = f'{name} at iteration {iteration:,}: {size:,} bytes in a checkpoint.'
    return dict(note=note), run


def logging_rows(args: Namespace) -> Iterator[dict]:
    for iteration in ITERATIONS:
        rows = in_turns(
            [
                dict(
                    part='logging',
                    size=f'iteration {iteration:,}',
                    name=name,
                    base=STOCK,
                    images=1,
                )
                for name in HOOKS
            ],
            [partial(make_logging, iteration=iteration, name=name) for name in HOOKS],
            args.rounds,
            args,
        )
        for row in rows:
            row.pop('peak_bytes', None)  # of tensors, of which there are none
            yield row
