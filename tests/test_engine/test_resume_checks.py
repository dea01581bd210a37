"""Checkpoints that a training must not resume from, and settings that changed."""

import copy
import logging
import types

from mobilevig_det.engine.resume_checks import check_training_checkpoint, prepare_resume
from mobilevig_det.engine.training_state import restore_training_state
from mobilevig_det.errors import UserError

import pytest
import tiny_training as tiny
import torch
from mmengine.logging import MessageHub
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from torch import nn


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Of a training of its own, in the middle of an epoch, with averaged weights."""
    folder = tmp_path_factory.mktemp('run')
    cfg = tiny.config(folder, accumulate=2)
    tiny.train(cfg, dict(iter=15), minutes=3)
    return torch.load(folder / 'epoch_1_iter_14.pth', weights_only=True)


def fresh_run(optimizer=None, model=None, **schedule):
    """Return what a runner has before it resumes; AdamW is fused."""
    model = model or tiny.TinyNet()
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    wrapper = OptimWrapper(optimizer, accumulative_counts=2)
    warmup = LinearLR(wrapper, start_factor=0.1, by_epoch=False, end=12)
    steps = MultiStepLR(
        wrapper, **{**dict(milestones=[2], gamma=0.1, end=3), **schedule}
    )
    said = []
    logger = logging.Logger('resume')
    logger.addHandler(logging.Handler())
    logger.handlers[0].emit = lambda record: said.append(record.getMessage())
    return types.SimpleNamespace(
        model=model,
        optim_wrapper=wrapper,
        param_schedulers=[warmup, steps],
        message_hub=MessageHub('resume'),
        logger=logger,
        said=said,
        _load_from='file.pth',
    )


def resume(run, content, keep=True):
    """Restore what MMEngine restores, and make a step."""
    kept = prepare_resume(run, content, keep)
    run.model.load_state_dict(content['state_dict'], strict=False)
    run.message_hub.load_state_dict(content['message_hub'])
    if 'optimizer' in content:
        run.optim_wrapper.load_state_dict(content['optimizer'])
    for scheduler, state in zip(
        run.param_schedulers, content.get('param_schedulers', [])
    ):
        scheduler.load_state_dict(state)
    if content.get('training_state'):
        restore_training_state(run, content['training_state'])
    batch = [torch.randn(3, 4, 4)] * 2
    loss = run.model(batch, [0, 1], [0, 1], mode='loss')['loss']
    loss.backward()
    run.optim_wrapper.optimizer.step()
    for scheduler in run.param_schedulers:
        scheduler.step()
    return kept


def places(value, depth=5, path=()):
    """Yield the paths of all entries; of equal ones in a list or dict the first two."""
    if depth and isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in list(items)[: 40 if isinstance(value, dict) else 2]:
            yield (*path, key)
            yield from places(each, depth - 1, (*path, key))


def changed(content, path, new):
    """Return a copy whose entry is another one, or missing."""
    *parents, last = path
    content = copy.deepcopy(content)
    place = content
    for key in parents:
        place = place[key]
    if isinstance(place, tuple):
        return None
    if new is KeyError:
        del place[last]
    else:
        place[last] = new
    return content


HOSTILE = [
    KeyError,
    None,
    'x',
    -1,
    10**30,
    float('nan'),
    [],
    {},
    ['../../x', 'y'],
    {'x': object},
    torch.zeros(1),
    torch.zeros(2, 3, device='meta'),
    torch.eye(2).to_sparse(),
]


@pytest.mark.parametrize('step', [13, pytest.param(1, marks=pytest.mark.slow)])
def test_any_malformed_entry_is_one_message_or_harmless(checkpoint, step):
    """Each entry of a training checkpoint in turn is missing or of another kind."""
    paths = [p for p in places(checkpoint) if 'ema_state_dict' not in p[:1]]
    assert len(paths) > 80
    states = torch.get_rng_state()
    refused, wrong = 0, []
    for number, path in enumerate(paths):
        for new in HOSTILE[number % step :: step]:
            content = changed(checkpoint, path, new)
            if content is None:
                continue
            try:
                resume(fresh_run(), content)
            except UserError as error:
                refused += 1
                assert len(str(error)) < 1000
            except Exception as error:
                wrong.append(f'{path} = {new!r}: {type(error).__name__}: {error}')
    assert not wrong
    assert refused > 50
    torch.set_rng_state(states)


def test_complete_checkpoint_resumes_without_a_message(checkpoint):
    run = fresh_run()
    assert resume(run, copy.deepcopy(checkpoint))
    assert run.said == []


def moments(checkpoint, change):
    content = copy.deepcopy(checkpoint)
    for state in content['optimizer']['state'].values():
        change(state)
    return content


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s.update(exp_avg=torch.zeros(1)), 'exp_avg of layers'),
        (lambda s: s.update(exp_avg_sq=s['exp_avg_sq'][..., None]), 'exp_avg_sq of'),
        (lambda s: s.update(exp_avg=s['exp_avg'].double()), 'float64'),
        (lambda s: s.update(exp_avg=s['exp_avg'].to_sparse()), 'dense|exp_avg'),
        (lambda s: s.update(exp_avg=torch.empty_like(s['exp_avg'], device='meta')), ''),
        (lambda s: s.update(step=torch.zeros(0)), 'step of layers'),
        (lambda s: s.update(step=torch.tensor(-1.0)), 'step of layers'),
        (lambda s: s.pop('exp_avg'), 'not the AdamW'),
        (lambda s: s.update(another=torch.zeros(1)), 'not the AdamW'),
    ],
)
def test_moments_are_checked_before_a_kernel_reads_them(checkpoint, change, message):
    """Fused AdamW reads as many values as the parameter has."""
    with pytest.raises(UserError, match=message):
        resume(fresh_run(), moments(checkpoint, change))


def test_wider_layer_is_one_message(checkpoint):
    model = tiny.TinyNet()
    model.layers[0] = nn.Conv2d(3, 400, 3)
    with pytest.raises(UserError, match=r'layers.0.weight.*\(400, 3, 3, 3\)'):
        resume(fresh_run(model=model), copy.deepcopy(checkpoint))
    model = tiny.TinyNet()
    model.another = nn.Linear(3, 3)
    with pytest.raises(UserError, match='6 parameters in 1 groups.* 8 in 1'):
        resume(fresh_run(model=model), copy.deepcopy(checkpoint))


@pytest.mark.parametrize(
    'name, settings', [('SGD', dict(momentum=0.9)), ('Adagrad', {}), ('RMSprop', {})]
)
def test_another_optimizer_is_one_message(checkpoint, name, settings):
    model = tiny.TinyNet()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05, **settings)
    with pytest.raises(UserError, match=f'not the {name} of the config'):
        resume(fresh_run(optimizer, model), copy.deepcopy(checkpoint))


@pytest.mark.parametrize(
    'name, settings',
    [
        ('SGD', dict(momentum=0.9, nesterov=True)),
        ('SGD', {}),
        ('Adam', dict(amsgrad=True)),
        ('RMSprop', dict(centered=True)),
        ('Adagrad', {}),
        ('Adamax', {}),
    ],
)
def test_optimizers_resume_from_their_own_state(checkpoint, name, settings):
    def make():
        model = tiny.TinyNet()
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05, **settings)
        return fresh_run(optimizer, model)

    run = make()
    content = copy.deepcopy(checkpoint)
    del content['optimizer'], content['param_schedulers']
    resume(run, content)
    assert 'has no entry' in run.said[0]
    content = copy.deepcopy(checkpoint)
    content['optimizer'] = run.optim_wrapper.state_dict()
    assert resume(make(), content)


def test_changed_settings_are_reported(checkpoint):
    model = tiny.TinyNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98))
    run = fresh_run(optimizer, model, milestones=[1, 2])
    assert resume(run, copy.deepcopy(checkpoint))
    (said,) = run.said
    for part in (
        'lr=0.05 (config: 0.01)',
        'betas=[0.9, 0.999] (config: [0.9, 0.98])',
        'milestones=[2] (config: [1, 2])',
        'resume_hyperparameters=False',
    ):
        assert part in said
    (group,) = run.optim_wrapper.optimizer.param_groups
    assert group['betas'] == (0.9, 0.999) and group['initial_lr'] == 0.05


@pytest.mark.parametrize('number', [0, 1, 3])
def test_another_number_of_schedulers_is_one_message(checkpoint, number):
    run = fresh_run()
    run.param_schedulers = (run.param_schedulers * 2)[:number]
    content = copy.deepcopy(checkpoint)
    if number == 0:  # nothing to restore
        assert resume(run, content)
        return
    with pytest.raises(UserError, match='resume_hyperparameters=False'):
        resume(run, content)


def test_config_of_a_checkpoint_is_not_run(checkpoint, tmp_path):
    content = copy.deepcopy(checkpoint)
    content['meta']['config'] = f'open({str(tmp_path / "run")!r}, "w")'
    prepare_resume(fresh_run(), content, True)
    assert 'config' not in content['meta']


def test_kinds_of_files_that_are_no_training_checkpoints():
    for content in ([], None, {}, dict(state_dict={}), dict(meta={}, state_dict={})):
        with pytest.raises(UserError, match='file.pth is not a training checkpoint'):
            check_training_checkpoint(content, 'file.pth')


def lr_at(cfg, iteration, minutes=None):
    result = tiny.train(cfg, dict(iter=iteration), minutes)
    (group,) = result.runner.optim_wrapper.param_groups
    return group['lr']


def test_changed_settings_are_applied_on_demand(tmp_path):
    """The learning rate is that of a run which had the new settings from the start."""

    def config(folder, **changes):
        cfg = tiny.config(folder, **changes)
        cfg['optim_wrapper']['optimizer']['lr'] = 0.01
        cfg['param_scheduler'] = [
            dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=16),
            dict(type='ExponentialLR', gamma=0.3, by_epoch=True),
        ]
        cfg['default_hooks']['checkpoint']['resume_hyperparameters'] = False
        return cfg

    want = lr_at(config(tmp_path / 'new'), 22)
    tiny.train(tiny.config(tmp_path / 'run'), dict(iter=15), minutes=2)
    got = lr_at(config(tmp_path / 'run', resume=True), 22)
    assert got == pytest.approx(want, rel=1e-9)
    assert want == pytest.approx(0.01 * 0.3**2)


def test_resume_skips_malformed_checkpoint(tmp_path):
    cfg = tiny.config(tmp_path)
    tiny.train(cfg, dict(iter=15), minutes=2)
    path = tmp_path / 'epoch_1_iter_15.pth'
    content = torch.load(path, weights_only=True)
    torch.save({**content, 'message_hub': 'x'}, path)
    result = tiny.train({**tiny.config(tmp_path), 'resume': True}, dict(iter=16))
    assert result.runner._load_from == str(tmp_path / 'epoch_1_iter_13.pth')
