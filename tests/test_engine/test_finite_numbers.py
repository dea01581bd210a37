"""NaN and infinite losses and gradients: reported and skipped."""

import itertools
import logging
import os
import subprocess
import sys

import mobilevig_det.engine  # noqa: F401  registers the hook
from mobilevig_det.checkpoints.safety import non_finite_weights
from mobilevig_det.engine.hooks.finite_numbers import _image_names
from mobilevig_det.engine.launch import NOT_FINITE, leave_process_group
from mobilevig_det.errors import UserError

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

NUMBER = itertools.count()


class Inf(torch.autograd.Function):
    """Identity with an infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float('inf')


class Tiny(BaseModel):
    """A model with a norm; each batch says what goes wrong with it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs, data_samples, mode='loss'):
        wrong = data_samples[0].get('wrong')
        x = torch.stack(list(inputs))
        out = self.head(self.layers(x))
        if wrong == 'gradient':
            out = Inf.apply(out)
        loss = (out - 1).square().mean()
        other = out.abs().mean() * 0.1
        if wrong == 'loss':
            other = other * float('nan')
        if wrong == 'loss without a gradient':
            other = other.detach() + float('inf')
        if wrong == 'statistics':
            self.layers[1].running_var.data[1] = float('inf')
        return dict(loss_box=loss, losses_mask=[other, other], acc=loss.new_tensor(0.0))


def batches(wrongs):
    generator = torch.Generator().manual_seed(1)
    for i, wrong in enumerate(wrongs):
        inputs = [torch.rand(3, generator=generator) for _ in range(4)]
        if wrong == 'image':
            inputs[2] = inputs[2] * float('nan')
        samples = [
            BaseDataElement(metainfo=dict(img_path=f'{i}_{j}.jpg', wrong=wrong))
            for j in range(4)
        ]
        yield dict(inputs=inputs, data_samples=samples)


def make_runner(
    folder, wrongs, hook=True, patience=3, optim_wrapper=None, optimizer=None, **kwargs
):
    optimizer = optimizer or dict(type='AdamW', lr=0.1)
    return Runner(
        Tiny(),
        str(folder),
        train_dataloader=torch.utils.data.DataLoader(
            [
                dict(inputs=inputs, data_samples=sample)
                for batch, wrong in zip(batches(wrongs), wrongs)
                if wrong != 'absent'
                for inputs, sample in zip(batch['inputs'], batch['data_samples'])
            ],
            batch_size=4,
            collate_fn=pseudo_collate,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            **(optim_wrapper or dict(type='OptimWrapper')), optimizer=optimizer
        ),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type='FiniteNumbersHook', patience=patience)]
        if hook
        else [],
        experiment_name=f'run_{next(NUMBER)}',
        default_scope='mmengine',
        **kwargs,
    )


def errors_of(runner):
    """Return a list that collects the messages logged as errors."""
    errors = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())
    runner.logger.addHandler(handler)
    return errors


def train(folder, wrongs, **kwargs):
    """Return the trained model and the messages logged as errors."""
    runner = make_runner(folder, wrongs, **kwargs)
    errors = errors_of(runner)
    runner.train()
    return runner.model, errors


def assert_same(model, other):
    a, b = model.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


WRONGS = ['loss', 'gradient', 'loss without a gradient', 'statistics', 'image']


def skipping(wrongs, clip, **kwargs):
    """Train in a plain loop that never sees the bad batches."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **kwargs)
    for batch, wrong in zip(batches(wrongs), wrongs):
        if wrong is None:
            losses = model(**batch)
            (losses['loss_box'] + sum(losses['losses_mask'])).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('clip', [None, 0.5])
def test_bad_iterations_do_not_change_the_model(tmp_path, fused, clip):
    """Weights and statistics are those of a run without the bad batches."""
    wrongs = [None, *(w for wrong in WRONGS for w in (wrong, None)), None]
    wrapper = dict(type='OptimWrapper')
    if clip:
        wrapper['clip_grad'] = dict(max_norm=clip)
    optimizer = dict(type='AdamW', lr=0.1, fused=fused)
    model, errors = train(tmp_path, wrongs, optim_wrapper=wrapper, optimizer=optimizer)
    assert len(errors) == len(WRONGS)
    assert_same(model, skipping(wrongs, clip, fused=fused))


def test_finite_training_is_bit_identical_without_the_hook(tmp_path):
    model, errors = train(tmp_path, [None] * 4)
    without, _ = train(tmp_path, [None] * 4, hook=False)
    assert not errors
    assert_same(model, without)
    # Nothing is left on the model.
    assert not model._forward_hooks


def test_log_names_losses_gradients_and_images(tmp_path):
    wrongs = [None, 'loss', None, 'gradient', None, 'statistics']
    _, (loss, gradient, statistics) = train(tmp_path, wrongs)
    assert 'Iteration 2 is skipped' in loss and '(1 in a row, 3 end' in loss
    assert 'losses_mask nan' in loss and 'loss_box 0.' in loss
    assert 'losses that are not finite: losses_mask\n' in loss
    assert 'images: 1_0.jpg, 1_1.jpg, 1_2.jpg, 1_3.jpg' in loss
    assert 'Iteration 4 is skipped' in gradient
    assert 'losses that are' not in gradient and 'nan' not in gradient
    assert 'gradients: ' in gradient and 'first: layers.0.weight, 12' in gradient
    assert '3_0.jpg' in gradient
    assert 'statistics: 1 values of 1 weights' in statistics
    assert 'layers.1.running_var' in statistics


def test_training_ends_after_patience_bad_iterations(tmp_path):
    """Two bad iterations in a row are skipped; three end the training."""
    bad = 'loss'
    _, errors = train(tmp_path, [bad, bad, None, bad, bad])
    assert len(errors) == 4
    runner = make_runner(tmp_path, [None, bad, 'gradient', bad, None, None])
    errors = errors_of(runner)
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert end.value.code == NOT_FINITE == 3
    assert runner.iter == 3
    assert 'Training ends: 3 iterations in a row' in errors[-1]
    assert 'The weights are finite' in errors[-1]
    assert 'lower the learning rate' in errors[-1]
    assert not non_finite_weights(runner.model.state_dict())


def test_non_finite_weights_are_reported_at_the_end(tmp_path):
    runner = make_runner(tmp_path, [None] * 5)
    with torch.no_grad():
        runner.model.head.weight[0, 1] = float('nan')
    errors = errors_of(runner)
    with pytest.raises(SystemExit):
        runner.train()
    assert 'Resume from an older checkpoint' in errors[-1]
    assert 'first: head.weight, 1 of them' in errors[-1]


def test_accumulated_gradients_of_a_bad_batch_are_dropped(tmp_path):
    """Gradients of the batches after the bad one are used."""
    wrongs = [None, None, None, 'gradient', None, None]
    model, errors = train(
        tmp_path,
        wrongs,
        optim_wrapper=dict(type='OptimWrapper', accumulative_counts=3),
        optimizer=dict(type='SGD', lr=0.1),
    )
    assert len(errors) == 1 and 'Iteration 4' in errors[0]
    reference = Tiny()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for i, batch in enumerate(batches(wrongs)):
        if wrongs[i] is None:
            losses = reference(**batch)
            ((losses['loss_box'] + sum(losses['losses_mask'])) / 3).backward()
        if i % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)


class CpuScaler(torch.amp.GradScaler):
    """GradScaler on the CPU, where MMEngine has none."""

    def __init__(self, **kwargs):
        super().__init__('cpu', **kwargs)


@pytest.fixture
def scaler(monkeypatch):
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    monkeypatch.setattr(f'{module}.GradScaler', CpuScaler)

    def wrapper(clip=None, scale=65536.0):
        return dict(
            type='AmpOptimWrapper',
            loss_scale=dict(init_scale=scale),
            clip_grad=clip and dict(max_norm=clip),
        )

    return wrapper


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('clip', [None, 0.5])
def test_overflow_of_a_scaled_loss_is_not_bad(tmp_path, scaler, fused, clip):
    """A non-finite loss is bad, and at a scale of 1 so is every overflow."""
    given = dict(
        optim_wrapper=scaler(clip), optimizer=dict(type='AdamW', lr=0.1, fused=fused)
    )
    _, errors = train(tmp_path, ['gradient'] * 5, **given)
    assert not errors
    wrongs = [None, 'loss without a gradient', None]
    model, errors = train(tmp_path, wrongs, **given)
    assert len(errors) == 1 and 'losses_mask inf' in errors[0]
    without, _ = train(tmp_path, [None, 'absent', None], hook=False, **given)
    assert_same(model, without)
    _, errors = train(tmp_path, ['loss', None], **given)
    assert len(errors) == 1 and 'Iteration 1' in errors[0]
    given['optim_wrapper'] = scaler(clip, 1.0)
    with pytest.raises(SystemExit):
        train(tmp_path, ['gradient'] * 3, **given)


def in_rank(rank, folder, results):
    torch.set_num_threads(1)  # OpenMP's other ones are lost in a fork
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    # The other process's batch is good; the last two are so in both.
    wrongs = ['loss', 'statistics', 'loss without a gradient', None, None]
    runner = make_runner(
        folder,
        wrongs if rank else [None] * 5,
        patience=4,
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
            )
        ),
    )
    errors = errors_of(runner)
    runner.train()
    model = runner.model.module
    results.put((rank, errors, model.head.weight.detach().numpy().tobytes()))
    leave_process_group()


def test_two_ranks_skip_the_same_iterations(tmp_path):
    context = torch.multiprocessing.get_context('fork')  # imports are done
    results = context.Queue()
    ranks = [
        context.Process(target=in_rank, args=(rank, tmp_path, results))
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    (_, errors, weights), (_, _, others) = sorted(
        results.get(timeout=60) for _ in ranks
    )
    for rank in ranks:
        rank.join(timeout=60)
    assert len(errors) == 3
    assert 'process 1: losses that are not finite: losses_mask' in errors[0]
    assert 'process 1: images: 0_0.jpg' in errors[0]
    assert 'process 0: losses: loss_box 0.' in errors[0]
    assert weights == others


def test_process_exits_with_3_and_no_traceback(tmp_path):
    """Run it as a command."""
    program = """if True:
        import sys
        from pathlib import Path
        from test_engine import test_finite_numbers as tests
        runner = tests.make_runner(Path(sys.argv[1]), ['loss'] * 5)
        runner.train()
    """
    ended = subprocess.run(
        [sys.executable, '-c', program, str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == NOT_FINITE, ended.stderr[-2000:]
    assert 'Traceback' not in ended.stderr
    assert 'Training ends: 3 iterations in a row' in ended.stdout + ended.stderr


@pytest.mark.parametrize('patience', [0, -1, 1.5, 'many', None, True])
def test_patience_is_checked(patience):
    with pytest.raises(UserError, match='patience must be a positive integer'):
        HOOKS.build(dict(type='FiniteNumbersHook', patience=patience))


def test_non_finite_weights():
    nan, inf = float('nan'), float('inf')
    weights = dict(
        good=torch.zeros(2, 3),
        bad=torch.tensor([[0, nan], [inf, -inf]]),
        half=torch.tensor([nan, 1], dtype=torch.float16),
        byte=torch.tensor([nan, 1]).to(torch.float8_e4m3fn),
        turned=torch.tensor([complex(0, nan)]),
        sparse=torch.tensor([0, inf]).to_sparse(),
        empty=torch.zeros(0),
        count=torch.tensor(3),
        text='nan',
        meta=torch.zeros(3, device='meta'),
    )
    expected = dict(bad=3, half=1, byte=1, turned=1, sparse=1)
    assert non_finite_weights(weights) == expected


def test_image_names_of_any_batch():
    sample = BaseDataElement(metainfo=dict(img_id=7))
    (batch,) = batches([None])
    assert _image_names(batch) == [f'0_{j}.jpg' for j in range(4)]
    assert _image_names(dict(sup=[sample], unsup=dict(data_samples=(sample,)))) == [
        '7',
        '7',
    ]
    assert _image_names(dict(inputs=torch.zeros(1))) == []
