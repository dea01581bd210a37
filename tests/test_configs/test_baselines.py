"""Configs and detectors with backbones of timm."""

from pathlib import Path

from mobilevig_det.backbones import TimmBackbone
from mobilevig_det.cli import runner
from mobilevig_det.cli.runner import report_normalization
from mobilevig_det.config import load_config

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from test_configs import one_batch

FOLDER = Path(__file__).parents[2] / 'configs' / 'baselines'
# Those of Pyramid ViG have tests of their own.
BASELINES = sorted(p for p in FOLDER.glob('*.py') if 'pyramidvig' not in p.stem)

pytestmark = pytest.mark.usefixtures('timm')


def detector(family, name):
    """A detector with narrow heads."""
    init_default_scope('mmdet')
    if family == 'Mask R-CNN':
        model = load_config('mobilevig_ti_fpn_shapes').model
    elif family == 'RetinaNet':
        model = load_config('retinanet_mobilevig_m_fpn_1x').model
        model.bbox_head.update(stacked_convs=1, feat_channels=32, in_channels=32)
        model.neck.out_channels = 32
    else:
        model = get_config('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py').model
        model.neck.update(num_csp_blocks=1, expand_ratio=0.25, out_channels=32)
        model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1)
        model.data_preprocessor.batch_augments = None
    out_indices = (1, 2, 3) if family == 'RTMDet-Ins' else (0, 1, 2, 3)
    args = dict(out_indices=out_indices)
    model.backbone = dict(type='TimmBackbone', model_name=name, **args)
    model.neck.in_channels = TimmBackbone.out_channels(name, **args)
    return MODELS.build(model).train()


@pytest.mark.parametrize('family', ['Mask R-CNN', 'RetinaNet', 'RTMDet-Ins'])
@pytest.mark.parametrize('name', ['mobilenetv4_conv_small_035', 'mambaout_femto'])
def test_detectors_train(family, name):
    """Every parameter gets a gradient, so that DDP does not wait for one."""
    torch.manual_seed(0)
    model = detector(family, name)
    batch = one_batch(64, 96)
    batch = {key: value * 2 for key, value in batch.items()}
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.fixture
def warnings(monkeypatch):
    """What is logged."""
    messages = []
    monkeypatch.setattr(
        runner, 'print_log', lambda text, **kwargs: messages.append(text)
    )
    return messages


@pytest.mark.parametrize('path', BASELINES, ids=lambda path: path.stem)
def test_baseline_configs_are_the_recipe_with_another_backbone(path, warnings):
    ours, base = load_config(str(path)), load_config('mobilevig_m_fpn_1x')
    backbone = dict(ours.model.backbone)
    assert backbone.pop('type') == 'TimmBackbone' and backbone.pop('pretrained')
    channels = TimmBackbone.out_channels(**backbone)
    assert ours.model.neck.in_channels == channels
    report_normalization(ours.model)
    assert not warnings
    ours, base = ours.to_dict(), base.to_dict()
    for part in ('backbone', 'neck'):
        assert ours['model'].pop(part) != base['model'].pop(part)
    assert ours == base


def test_other_normalization_is_reported(warnings):
    given = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    backbone = dict(type='TimmBackbone', model_name='mobilevitv2_050', pretrained=True)
    report_normalization(dict(backbone=backbone, data_preprocessor=given))
    report_normalization(dict(backbone=dict(backbone, pretrained=False)))
    assert len(warnings) == 2
    assert '123.675' in warnings[0] and '[0.0, 0.0, 0.0]' in warnings[0]
