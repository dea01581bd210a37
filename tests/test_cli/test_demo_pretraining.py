"""The demo of pretraining: its trainings' settings, and what it draws."""

from mobilevig_det.config import load_config

import pytest
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from tool import load


@pytest.fixture(scope='module')
def tool():
    return load('demo_pretraining')


def test_detector_starts_from_the_checkpoint(tool, monkeypatch, tmp_path):
    """The options that it trains with, read as tools/train.py reads them."""
    calls = []

    monkeypatch.setattr(tool, 'run', lambda *call: calls.append(call))
    monkeypatch.setattr(
        'mobilevig_det.datasets.shapes.make_shapes', lambda root, **kwargs: root
    )
    monkeypatch.setattr(
        'mobilevig_det.datasets.shape_classes.make_shape_classes',
        lambda root, **kwargs: root,
    )
    for name in ('SHAPES_ROOT', 'SHAPE_CLASSES_ROOT'):
        monkeypatch.setenv(name, 'set before')
    tool.main(['--work-dir', str(tmp_path)])
    *trainings, plot = calls
    runs = [str(tmp_path / name) for name in ('from_scratch', 'pretrained')]
    assert plot == ('plot-run', *runs, '--out', str(tmp_path / 'pretraining.png'))
    classifier, scratch, pretrained = (
        dict(option.split('=', 1) for option in call[call.index('--cfg-options') + 1 :])
        for call in trainings
    )
    assert classifier['train_cfg.max_epochs'] == '12'
    start = f'mobilevig://{tmp_path}/classifier/epoch_12.pth'
    assert pretrained['model.backbone.init_cfg.checkpoint'] == start
    assert not any('init_cfg' in key for key in scratch)
    cfg = load_config('mobilevig_ti_fpn_shapes', pretrained)
    init_default_scope('mmdet')
    backbone = MODELS.build(cfg.model.backbone)
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=start)
