from mobilevig_det.cli import runner, train
from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError

import pytest
from mmdet.registry import VISUALIZERS
from mmengine.registry import init_default_scope


def test_scalars_reach_tensorboard_and_the_other_backends(tmp_path):
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator'
    )
    cfg = load_config('mobilevig_ti_fpn_shapes')
    before = list(cfg.visualizer.vis_backends)
    train.log_to_tensorboard(cfg)
    train.log_to_tensorboard(cfg)  # asked for twice
    assert len(cfg.visualizer.vis_backends) == len(before) + 1
    init_default_scope('mmdet')
    visualizer = VISUALIZERS.build(
        dict(cfg.visualizer, name='tensorboard', save_dir=str(tmp_path))
    )
    visualizer.add_scalars(dict(loss=1.5), step=3)
    visualizer.close()
    assert '"loss": 1.5' in next(tmp_path.rglob('scalars.json')).read_text()
    events = accumulator.EventAccumulator(str(tmp_path / 'vis_data'))
    events.Reload()
    (event,) = events.Scalars('loss')
    assert (event.value, event.step) == (1.5, 3)


def test_the_flag_is_passed_on(monkeypatch, shapes_root):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    built = []

    class Runner:
        def train(self):
            pass

    monkeypatch.setattr(
        runner, 'build_runner', lambda cfg: built.append(cfg) or Runner()
    )
    train.main(['mobilevig_ti_fpn_shapes', '--tensorboard'])
    types = [b['type'] for b in built[0].visualizer.vis_backends]
    assert 'TensorboardVisBackend' in types


def test_without_tensorboard(monkeypatch):
    monkeypatch.setattr(train, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install tensorboard'):
        train.log_to_tensorboard(load_config('mobilevig_ti_fpn_shapes'))
