"""Configs and checkpoints that version 0.2 wrote load and resume."""

import shutil
from pathlib import Path

from mobilevig_det.datasets.shape_classes import make_shape_classes
from mobilevig_det.engine import FaultTolerantLocalVisBackend, ResumableEpochTrainLoop

import pytest
import tiny_training as tiny
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

# Dumped, and written by trainings of tiny_training.py that were killed.
DATA = Path(__file__).parents[1] / 'data' / 'version_0_2'


@pytest.mark.parametrize(
    'checkpoint, settings, old_loop',
    [
        # In the middle of the second epoch.
        ('epoch_1_iter_15.pth', {}, 'SurvivingEpochTrainLoop'),
        # With accumulated gradients.
        ('iter_16.pth', dict(iters=24, accumulate=3), 'SurvivingIterTrainLoop'),
    ],
)
def test_checkpoint_of_0_2_resumes(tmp_path, checkpoint, settings, old_loop):
    uninterrupted = tiny.train(tiny.config(tmp_path / 'uninterrupted', **settings))
    work_dir = tmp_path / 'resumed'
    work_dir.mkdir()
    shutil.copy(DATA / checkpoint, work_dir)
    cfg = tiny.config(work_dir, resume=True, **settings)
    cfg['train_cfg']['type'] = old_loop
    with pytest.warns(DeprecationWarning, match=old_loop):
        resumed = tiny.train(cfg)
    done = 15 if checkpoint.startswith('epoch') else 16
    assert sorted(resumed.losses) == list(range(done, max(uninterrupted.losses) + 1))
    # The same samples with the same augmentation. The file may come from another
    # machine, whose sums differ by rounding.
    for iteration, batch in resumed.batches.items():
        for (index, image), (other, other_image) in zip(
            batch, uninterrupted.batches[iteration], strict=True
        ):
            assert index == other
            torch.testing.assert_close(image, other_image)
        loss = uninterrupted.losses[iteration]
        assert resumed.losses[iteration] == pytest.approx(loss, rel=1e-4)
    for name, weight in resumed.weights.items():
        # A bias before a BatchNorm, whose gradient is nothing but rounding.
        if name in ('layers.0.bias', 'layers.1.running_mean'):
            continue
        torch.testing.assert_close(
            weight, uninterrupted.weights[name], rtol=1e-4, atol=1e-5
        )


@pytest.fixture
def build(tmp_path):
    """Build the runner and the loops of a config, with all of its data."""

    def build(name, data_root):
        cfg = Config.fromfile(str(DATA / name))
        cfg.work_dir, cfg.log_level = str(tmp_path), 'ERROR'
        cfg.experiment_name = name
        for split in ('train', 'val', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            dataset.data_root = f'{data_root}/'
            evaluator = cfg.get(f'{split}_evaluator', {})
            if 'ann_file' in evaluator:
                evaluator.ann_file = f'{data_root}/{dataset.ann_file}'
        runner = Runner.from_cfg(cfg)
        return (
            runner,
            runner.build_train_loop(cfg.train_cfg),
            runner.build_val_loop(cfg.val_cfg),
        )

    yield build
    MessageHub._instance_dict.clear()
    init_default_scope('mmdet')


def hooks_of(runner):
    return {type(hook).__name__ for hook in runner.hooks}


OWN_HOOKS = {
    'DurableCheckpointHook',
    'FiniteNumbersHook',
    'StopOnSignalHook',
    'HangWatchdogHook',
    'BoundedRuntimeInfoHook',
}


@pytest.mark.parametrize('name', ['shapes_detector.py', 'shapes_classifier.py'])
def test_config_of_0_2_builds(name, build, shapes_root, tmp_path):
    if name == 'shapes_detector.py':
        root, kind = shapes_root, 'MaskRCNN'
    else:
        root, kind = tmp_path / 'classes', 'ImageClassifier'
        make_shape_classes(root, num_train=70, num_val=10, size=32)
    with pytest.warns(DeprecationWarning, match='removed in 0.4'):
        runner, train_loop, val_loop = build(name, root)
    assert type(runner.model).__name__ == kind
    assert OWN_HOOKS <= hooks_of(runner)
    backends = runner.visualizer._vis_backends.values()
    assert all(isinstance(b, FaultTolerantLocalVisBackend) for b in backends)
    assert isinstance(train_loop, ResumableEpochTrainLoop)
    assert len(train_loop.dataloader) > 0 and len(val_loop.dataloader) > 0
