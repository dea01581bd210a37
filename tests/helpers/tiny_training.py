"""A training of a second that draws random numbers in as many ways as possible.

Dropout, flips by three generators, and a validation that draws, too.
"""

import itertools
import random

import mobilevig_det.engine  # noqa: F401  registers

import mmengine.runner.runner as runner_module
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from mmengine.runner import Runner

LENGTH, BATCH = 20, 2  # ten iterations an epoch
_numbers = itertools.count()


# These run git and the compilers at each start and each checkpoint.
runner_module.collect_env = dict
runner_module.get_git_hash = str


class Killed(BaseException):
    """Stands for SIGKILL: no code catches it."""


@DATASETS.register_module(force=True)
class NoisyImages(BaseDataset):
    """Images of two classes; ``loaded`` lists the indices loaded for training."""

    METAINFO = dict(classes=('a', 'b'))
    loaded: list = []

    def load_data_list(self):
        return [dict(label=i % 2, width=4 + i % 3, height=5) for i in range(LENGTH)]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        image = torch.linspace(-1, 1, 48).reshape(3, 4, 4) * (1 + info['label'])
        if not self.test_mode:
            NoisyImages.loaded.append(idx)
            image = image + torch.randn(3, 4, 4) + np.random.rand()
            if random.random() < 0.5:
                image = image.flip(-1)
        return dict(inputs=image, label=info['label'], index=idx)


@MODELS.register_module(force=True)
class TinyNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 2),
        )

    def forward(self, inputs, label, index, mode='tensor'):
        scores = self.layers(torch.stack(list(inputs)))
        label = torch.as_tensor(label)
        if mode == 'loss':
            return dict(loss=torch.nn.functional.cross_entropy(scores, label))
        return [dict(score=s, label=int(y)) for s, y in zip(scores, label)]


@METRICS.register_module(force=True)
class DrawingMetric(BaseMetric):
    """The mean score. It draws random numbers, which must not affect the training."""

    def process(self, data_batch, data_samples):
        torch.rand(3), np.random.rand(2), random.random()
        self.results += [s['score'][s['label']].item() for s in data_samples]

    def compute_metrics(self, results):
        return dict(acc=float(np.mean(results)))


class Record(Hook):
    """Record losses and metrics by iteration, and raise Killed at a chosen point."""

    priority = 'LOWEST'

    def __init__(self, kill):
        self.kill = kill or {}
        self.losses, self.metrics, self.batches = {}, {}, {}

    def _maybe_kill(self, point, runner):
        if self.kill.get(point) == runner.iter:
            raise Killed

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()
        self.batches[runner.iter] = [
            (int(i), image)
            for i, image in zip(data_batch['index'], data_batch['inputs'])
        ]
        self._maybe_kill('iter', runner)

    def after_train_epoch(self, runner):
        self._maybe_kill('epoch', runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1:
            self._maybe_kill('val', runner)

    def after_val_epoch(self, runner, metrics=None):
        self.metrics[runner.iter] = dict(metrics)


def config(work_dir, *, epochs=3, iters=None, workers=0, accumulate=1, **changes):
    """Make the arguments of a Runner. Checkpoints by time are off."""
    loader = dict(
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=False,
        dataset=dict(type='NoisyImages'),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    by_epoch = iters is None
    train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=epochs)
    if not by_epoch:
        train_cfg = dict(type='ResumableIterTrainLoop', max_iters=iters, val_interval=8)
    cfg = dict(
        model=dict(type='TinyNet'),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=dict(type='NoisyImages', test_mode=True),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=train_cfg,
        val_cfg=dict(),
        val_evaluator=dict(type='DrawingMetric'),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.05), accumulative_counts=accumulate
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=12),
            dict(type='MultiStepLR', by_epoch=by_epoch, milestones=[2], gamma=0.1),
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='DurableCheckpointHook',
                by_epoch=by_epoch,
                interval=1 if by_epoch else 8,
                minutes=None,
                save_best='acc',
            )
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        randomness=dict(seed=3, deterministic=True),
        log_processor=dict(by_epoch=by_epoch),
        log_level='ERROR',
        default_scope='mmengine',
    )
    for key, value in changes.items():
        if isinstance(cfg.get(key), dict) and value is not None:
            cfg[key].update(value)
        else:
            cfg[key] = value
    return cfg


class Result:
    def __init__(self, record):
        self.losses, self.metrics = dict(record.losses), dict(record.metrics)
        self.batches = dict(record.batches)
        self.killed = False
        self.weights = {}


def checkpoint_hook(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'DurableCheckpointHook')


def train(cfg, kill=None, minutes=None, prepare=None):
    """Train until the end or until Killed is raised.

    Args:
        cfg (dict): Arguments of the Runner.
        kill (dict, optional): Points of :class:`Record` and iterations.
        minutes (int, optional): Save a checkpoint after so many minutes, of which one
            passes per iteration.
        prepare (Callable, optional): Called with the runner before it trains.
    """
    runner = Runner(**cfg, experiment_name=f'tiny_{next(_numbers)}')
    record = Record(kill)
    runner.register_hook(record)
    if minutes is not None:
        hook = checkpoint_hook(runner)
        hook.minutes, hook.clock = minutes, lambda: 60.0 * runner.iter
    if prepare is not None:
        prepare(runner)
    killed = False
    try:
        runner.train()
    except Killed:
        killed = True
    result = Result(record)
    result.killed, result.runner = killed, runner
    result.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
    MessageHub._instance_dict.clear()
    init_default_scope('mmdet')  # other tests expect it
    return result


def train_interrupted(make_cfg, kill, minutes=None, prepare=None):
    """Train, be killed and resume; return the results of both, the later ones first."""
    first = train(make_cfg(), kill, minutes, prepare)
    assert first.killed
    second = train({**make_cfg(), 'resume': True}, None, minutes)
    assert not second.killed
    second.first, second.second_losses = first, second.losses
    second.losses = {**first.losses, **second.losses}
    second.metrics = {**first.metrics, **second.metrics}
    return second


def assert_equal(one, other):
    """Assert that weights, losses and metrics are bit-identical."""
    assert one.losses == other.losses
    assert one.metrics == other.metrics
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
