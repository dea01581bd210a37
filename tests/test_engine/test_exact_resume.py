"""An interrupted and resumed training is bit-identical to an uninterrupted one."""

import os

import pytest
import tiny_training as tiny
import torch
from mmengine.hooks import Hook


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return tiny.train(tiny.config(tmp_path_factory.mktemp('whole')))


def test_two_runs_of_one_seed_are_bit_identical(whole, tmp_path):
    tiny.assert_equal(whole, tiny.train(tiny.config(tmp_path)))


@pytest.mark.parametrize(
    'kill, minutes, resumed_from',
    [
        # At the end of an epoch, before its validation.
        (dict(epoch=20), None, 'epoch_2.pth'),
        (dict(val=20), None, 'epoch_2.pth'),
        # In the middle of an epoch: what came after the save is done again.
        (dict(iter=13), 2, 'epoch_1_iter_13.pth'),
        (dict(iter=19), 1, 'epoch_1_iter_20.pth'),
        (dict(iter=14), None, 'epoch_1.pth'),
    ],
)
def test_interrupted_run_is_bit_identical(whole, tmp_path, kill, minutes, resumed_from):
    result = tiny.train_interrupted(lambda: tiny.config(tmp_path), kill, minutes)
    assert result.runner._load_from == str(tmp_path / resumed_from)
    tiny.assert_equal(whole, result)


def test_run_killed_before_its_first_checkpoint_is_bit_identical(whole, tmp_path):
    result = tiny.train_interrupted(lambda: tiny.config(tmp_path), dict(iter=2))
    tiny.assert_equal(whole, result)


@pytest.mark.parametrize(
    'step', [pytest.param('fsync', marks=pytest.mark.slow), 'replace']
)
def test_run_killed_while_writing_is_bit_identical(whole, tmp_path, monkeypatch, step):
    """Killed while writing the second epoch's checkpoint, or the pointer to it."""
    for number in (0, 2):
        folder = tmp_path / str(number)

        def prepare(runner, number=number):
            real, calls = getattr(os, step), []

            def killing(*args):
                if runner.iter >= 20:
                    calls.append(args)
                    if len(calls) > number:
                        monkeypatch.undo()
                        raise tiny.Killed
                return real(*args)

            monkeypatch.setattr(os, step, killing)

        result = tiny.train_interrupted(
            lambda: tiny.config(folder), None, prepare=prepare
        )
        tiny.assert_equal(whole, result)
        assert not list(folder.glob('.*.part'))


@pytest.mark.parametrize(
    'kill, accumulate', [(dict(iter=12), 4), (dict(val=10), 4), (dict(epoch=20), 3)]
)
def test_accumulated_gradients_are_restored(tmp_path, kill, accumulate):
    """Interrupted one or two iterations after the last optimizer step."""

    def config(name):
        return tiny.config(tmp_path / name, accumulate=accumulate)

    def save_where_killed(runner):
        runner.register_hook(SaveAt(kill.get('iter')), priority='VERY_LOW')

    whole = tiny.train(config('whole'))
    result = tiny.train_interrupted(
        lambda: config('killed'), kill, prepare=save_where_killed
    )
    tiny.assert_equal(whole, result)
    assert min(result.second_losses) == kill.get('iter', 0) + 1 or 'iter' not in kill


class SaveAt(Hook):
    """Save as StopOnSignalHook does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            hook = tiny.checkpoint_hook(runner)
            assert hook.save_now(runner) and hook.already_saved(runner)


@pytest.mark.parametrize(
    'kill, minutes', [(dict(iter=10), 1), (dict(iter=16), 5), (dict(val=16), None)]
)
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_iteration_based_run_is_bit_identical(tmp_path, kill, minutes, sampler):
    def config(name):
        cfg = tiny.config(tmp_path / name, iters=24)
        cfg['train_dataloader']['sampler']['type'] = sampler
        return cfg

    whole = tiny.train(config('whole'))
    tiny.NoisyImages.loaded.clear()
    result = tiny.train_interrupted(lambda: config('killed'), kill, minutes)
    tiny.assert_equal(whole, result)
    again = result.runner.iter - min(set(result.second_losses))
    done = max(result.first.losses) + 1
    assert len(tiny.NoisyImages.loaded) == tiny.BATCH * (done + again)


def test_resuming_does_not_load_seen_samples(tmp_path):
    tiny.train(tiny.config(tmp_path), dict(iter=13), 1)
    tiny.NoisyImages.loaded.clear()
    tiny.train(tiny.config(tmp_path, epochs=2, resume=True))
    assert len(tiny.NoisyImages.loaded) == 2 * (20 - 14)


def test_augmentation_does_not_depend_on_the_number_of_workers(whole, tmp_path):
    for workers in (1, 3):
        cfg = tiny.config(tmp_path / str(workers), workers=workers, epochs=3)
        result = tiny.train(cfg)
        for iteration, batch in whole.batches.items():
            for (index, image), (other, other_image) in zip(
                batch, result.batches[iteration]
            ):
                assert index == other and torch.equal(image, other_image)
        tiny.assert_equal(whole, result)


def test_samples_differ_from_epoch_to_epoch(whole):
    seen = {}
    for batch in whole.batches.values():
        for index, image in batch:
            seen.setdefault(index, []).append(image)
    assert all(len(images) == 3 for images in seen.values())
    for images in seen.values():
        assert not torch.equal(images[0], images[1])
        assert not torch.equal(images[1], images[2])
