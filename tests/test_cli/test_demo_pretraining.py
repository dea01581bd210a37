"""The demo of pretraining: its trainings' settings, and what it draws."""

from pathlib import Path
from types import SimpleNamespace

from mobilevig_det.config import load_config
from mobilevig_det.evaluation.run_log import Run

import pytest
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from tool import load


@pytest.fixture(scope='module')
def tool():
    return load('demo_pretraining')


def run(values):
    """A run of 10 iterations an epoch with an evaluation after each."""
    return Run(
        'run',
        train=[dict(step=10 * len(values), at=float(len(values)), loss=1.0)],
        val=[
            dict(at=i, bbox_mAP=value, segm_mAP=value)
            for i, value in enumerate(values, 1)
        ],
    )


def test_curves_are_over_iterations(tool):
    slow, fast = run([0.1, 0.2, 0.3]), run([0.2, 0.35, 0.4])
    assert tool.reached(slow, 'bbox_mAP', 0.3) == '30 iterations'
    assert tool.reached(fast, 'bbox_mAP', 0.3) == '20 iterations'
    assert tool.reached(slow, 'bbox_mAP', 0.4) == 'never'
    box, mask = tool.draw({'from scratch': slow, 'pretrained': fast}).axes
    for axes in (box, mask):
        first, second = axes.lines
        assert list(first.get_xdata()) == list(second.get_xdata()) == [10, 20, 30]
        assert list(second.get_ydata()) == pytest.approx([20, 35, 40])


def test_detector_starts_from_the_checkpoint(tool, monkeypatch, tmp_path):
    """The options that it trains with, read as tools/train.py reads them."""
    calls = []

    def record(command_line, env):
        calls.append(command_line)
        folder = Path(command_line[command_line.index('--work-dir') + 1])
        folder.mkdir(parents=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(tool.subprocess, 'run', record)
    monkeypatch.setattr(
        'mobilevig_det.datasets.shapes.make_shapes', lambda root, **kwargs: root
    )
    monkeypatch.setattr(
        'mobilevig_det.datasets.shape_classes.make_shape_classes',
        lambda root, **kwargs: root,
    )
    monkeypatch.setattr(
        'mobilevig_det.evaluation.run_log.read_run', lambda path: run([0.1, 0.2])
    )
    for name in ('SHAPES_ROOT', 'SHAPE_CLASSES_ROOT'):
        monkeypatch.setenv(name, 'set before')
    tool.main(['--work-dir', str(tmp_path)])
    assert (tmp_path / 'pretraining.png').stat().st_size > 1000
    classifier, scratch, pretrained = (
        dict(option.split('=', 1) for option in call[call.index('--cfg-options') + 1 :])
        for call in calls
    )
    assert classifier['train_cfg.max_epochs'] == '12'
    start = f'mobilevig://{tmp_path}/classifier/epoch_12.pth'
    assert pretrained['model.backbone.init_cfg.checkpoint'] == start
    assert not any('init_cfg' in key for key in scratch)
    cfg = load_config('mobilevig_ti_fpn_shapes', pretrained)
    init_default_scope('mmdet')
    backbone = MODELS.build(cfg.model.backbone)
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=start)
