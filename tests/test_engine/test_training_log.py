"""The bounded history compared with MMEngine's: the same log, and no growth."""

import copy
import itertools
import json
import pickle
import types

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.config import load_config
from mobilevig_det.engine import BoundedRuntimeInfoHook
from mobilevig_det.engine.hooks import training_log as module

import pytest
import tiny_training as tiny
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import MODELS
from mmengine.runner import LogProcessor
from torch.utils._python_dispatch import TorchDispatchMode

OURS, STOCK = 'BoundedRuntimeInfoHook', 'RuntimeInfoHook'
CUSTOM = [
    dict(data_src='loss_b', log_name='wide', method_name='mean', window_size=13),
    dict(data_src='loss', log_name='epoch', method_name='mean', window_size='epoch'),
    dict(data_src='loss', log_name='least', method_name='min', window_size='epoch'),
    dict(data_src='acc', log_name='all', method_name='mean', window_size='global'),
    dict(data_src='acc', log_name='most', method_name='max'),
    dict(data_src='lr', log_name='first', method_name='max', window_size=4),
    dict(data_src='half', method_name='current'),
    dict(data_src='time', method_name='mean', window_size=6),
]


@MODELS.register_module(force=True)
class WordyNet(tiny.TinyNet):
    def forward(self, *args, mode='tensor', **kwargs):
        out = super().forward(*args, mode=mode, **kwargs)
        if mode == 'loss':
            value = out['loss'].detach()
            out.update(acc=value.double()[None] / 3, half=value.half(), loss_b=value)
        return out


@pytest.fixture(autouse=True)
def no_slack(monkeypatch):
    monkeypatch.setattr(module, 'SLACK', 0)


def config(work_dir, hook, **changes):
    cfg = tiny.config(work_dir, model=dict(type='WordyNet'), **changes)
    cfg['default_hooks'].update(
        runtime_info=dict(type=hook), logger=dict(type='LoggerHook', interval=1)
    )
    return cfg


def logged(work_dir, leave_out=()):
    """Return the content of scalars.json, in the order of the keys."""
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [[(k, v) for k, v in line.items() if k not in leave_out] for line in lines]


BY_ITERATION = [c for c in CUSTOM if c.get('window_size', 'epoch') != 'epoch']


@pytest.mark.parametrize(
    'processor, iters, late',
    [
        (dict(), None, False),
        (dict(window_size=3, custom_cfg=CUSTOM), None, True),
        (dict(mean_pattern='.*(lr|acc).*', window_size=12), None, True),
        (
            dict(window_size=1, custom_cfg=BY_ITERATION, log_with_hierarchy=True),
            31,
            False,
        ),
    ],
)
def test_log_is_the_same_as_mmengines(processor, iters, late, tmp_path, monkeypatch):
    """Compare two trainings whose iterations take the same times."""
    monkeypatch.setattr(module, '_reads_wait', lambda device: late)
    logs, lengths = [], []
    for hook in (STOCK, OURS):
        ticks = itertools.count()
        fake = types.SimpleNamespace(time=lambda t=ticks: next(t) ** 1.5)
        monkeypatch.setattr('mmengine.hooks.iter_timer_hook.time', fake)
        folder = tmp_path / hook
        cfg = config(folder, hook, iters=iters, log_processor=copy.deepcopy(processor))
        cfg['default_hooks']['checkpoint'] = None
        result = tiny.train(cfg)
        logs.append(logged(folder))
        histories = result.runner.message_hub.log_scalars
        lengths.append({key: len(h.data[0]) for key, h in histories.items()})
    assert logs[0] == logs[1]
    assert len(logs[0]) > 30
    stock, ours = lengths
    assert list(stock) == list(ours)
    assert ours['train/loss_b'] < stock['train/loss_b']


def test_checkpoints_do_not_grow(tmp_path):
    cfg = config(tmp_path, OURS, epochs=4, log_processor=dict(window_size=5))
    cfg['default_hooks']['checkpoint']['max_keep_ckpts'] = -1
    tiny.train(cfg)
    histories = [
        read_checkpoint(tmp_path / f'epoch_{epoch}.pth')['message_hub']['log_scalars']
        for epoch in (1, 2, 4)
    ]
    sizes = [len(pickle.dumps(h)) for h in histories]
    assert sizes[0] == sizes[1] == sizes[2]
    lengths = {key: len(h.data[0]) for key, h in histories[-1].items()}
    assert lengths['train/loss'] == lengths['train/time'] == lengths['val/time'] == 5
    assert lengths['train/lr'] == lengths['val/acc'] == 1


@pytest.mark.parametrize('first, then', [(STOCK, OURS), (OURS, STOCK)])
def test_resumes_from_checkpoints_of_the_other_hook(first, then, tmp_path, monkeypatch):
    """In the middle of an epoch, with a window of an epoch, as on a GPU."""
    monkeypatch.setattr(module, '_reads_wait', lambda device: True)
    processor = dict(window_size=7)
    if then is OURS:
        processor['custom_cfg'] = CUSTOM[:3]
    times = ('time', 'data_time')
    cfg = config(tmp_path / 'whole', STOCK, epochs=2, log_processor=dict(processor))
    cfg['default_hooks']['checkpoint'] = None
    tiny.train(cfg)
    want = logged(tmp_path / 'whole', times)
    folder = tmp_path / 'resumed'
    cfg = config(folder, first, epochs=2, log_processor=dict(processor))
    assert tiny.train(cfg, dict(iter=15), minutes=5).killed
    for path in folder.glob('*/vis_data'):
        path.rename(path.with_name('first'))
    cfg = config(folder, then, epochs=2, log_processor=processor, resume=True)
    tiny.train(cfg)
    got = logged(folder, times)
    assert 4 < len(got) < 9
    assert got == want[-len(got) :]


def test_history_is_no_longer_than_needed_plus_slack(monkeypatch):
    monkeypatch.setattr(module, 'SLACK', 20)
    hub = MessageHub('bounded')
    runner = types.SimpleNamespace(
        message_hub=hub, log_processor=LogProcessor(window_size=50)
    )
    hook = BoundedRuntimeInfoHook()
    for i in range(300):
        outputs = dict(loss=torch.tensor(float(i)), acc=i)
        hub.update_scalar('another/loss', i)  # which no log processor reads
        hook.after_train_iter(runner, i, None, outputs)
        assert len(hub.get_scalar('train/loss').data[0]) <= 70
        assert len(hub.get_scalar('train/acc').data[0]) <= 21
    assert hub.get_scalar('train/loss').mean(50) == 274.5
    assert len(hub.get_scalar('another/loss').data[0]) == 300


class Waits(TorchDispatchMode):
    """Count the calls that wait for a device: item()."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_values_of_an_iteration_are_fetched_together():
    outputs = dict(
        loss=torch.tensor(0.1, requires_grad=True) * 3,
        acc=torch.tensor([97.3]),
        half=torch.tensor(0.1, dtype=torch.float16),
        brain=torch.tensor(0.1, dtype=torch.bfloat16),
        double=torch.tensor(0.1, dtype=torch.float64),
        number=torch.tensor(7),
        nan=torch.tensor(float('nan')),
        plain=0.3,
    )
    found = []
    for hook, waits in ((RuntimeInfoHook(), 7), (BoundedRuntimeInfoHook(), 0)):
        hub = MessageHub(f'device_{waits}')
        runner = types.SimpleNamespace(message_hub=hub, log_processor=LogProcessor())
        with Waits() as mode:
            hook.after_train_iter(runner, 0, None, outputs)
        assert mode.count == waits
        values = {k: h.current() for k, h in hub.log_scalars.items()}
        found.append(str([(k, type(v), v) for k, v in values.items()]))
    assert found[0] == found[1]


def test_deferred_values_are_fetched_when_the_history_is_read(monkeypatch):
    monkeypatch.setattr(module, '_reads_wait', lambda device: True)
    monkeypatch.setattr(module, 'MAX_PENDING', 4)
    hub, hook = MessageHub('late'), BoundedRuntimeInfoHook()
    runner = types.SimpleNamespace(
        message_hub=hub, log_processor=LogProcessor(window_size=50)
    )

    def log(number):
        loss = torch.tensor(float(number))
        hook.after_train_iter(runner, 0, None, dict(loss=loss, acc=loss.half() + 1))
        loss.fill_(-1)  # too late to be seen

    def number_waiting():
        return len(hub.log_scalars['train/loss'].fetched)

    log(0)
    for i in (1, 2):
        log(i)
    assert number_waiting() == 1  # MMEngine's own
    hub.update_scalar('train/loss', 3)  # by another hook: in its turn
    assert number_waiting() == 4
    log(4)
    for copied in (copy.deepcopy(hub.log_scalars), hub.state_dict()['log_scalars']):
        assert {type(history) for history in copied.values()} == {HistoryBuffer}
        assert copied['train/loss'].data[0].tolist() == [0, 1, 2, 3, 4]
        assert copied['train/loss'].data[1].tolist() == [1] * 5
    log(5)
    assert number_waiting() == 5
    assert hub.get_scalar('train/acc').current() == 6
    assert hub.get_scalar('train/loss').mean(3) == 4
    for i in (6, 7):
        log(i)
    assert number_waiting() == 6
    log(8)  # in two dtypes each: five groups are over the limit
    assert number_waiting() == 9


@pytest.mark.parametrize(
    'name', ['mobilevig_m_fpn_1x', 'mobilevig_ti_fpn_shapes', 'mobilevig_m_300e']
)
def test_configs_use_the_hook(name):
    hooks = load_config(name).default_hooks
    assert hooks.runtime_info.type == 'mobilevig_det.engine.BoundedRuntimeInfoHook'
