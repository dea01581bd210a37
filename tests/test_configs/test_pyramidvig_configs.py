"""Mask R-CNN with Pyramid ViG: MobileViG's recipe but for what the weights expect."""

from mobilevig_det import PyramidViG
from mobilevig_det.config import load_config

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from test_configs import one_batch


def config(size):
    init_default_scope('mmdet')
    return load_config(f'baselines/mask_rcnn_pyramidvig_{size}_fpn_1x.py')


@pytest.mark.parametrize('size', ['ti', 's'])
def test_recipe_is_mobilevigs(size):
    ours, base = (
        cfg.to_dict() for cfg in (config(size), load_config('mobilevig_m_fpn_1x'))
    )
    backbone = ours['model'].pop('backbone')
    standard = base['model'].pop('backbone')
    checkpoint = f'mobilevig://pyramidvig-{size}'
    assert backbone == dict(
        standard,
        type='PyramidViG',
        arch=size,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
    )
    assert ours['model']['neck'].pop('in_channels') == PyramidViG.out_channels(size)
    base['model']['neck'].pop('in_channels')
    for name in ('mean', 'std'):
        assert ours['model']['data_preprocessor'].pop(name) == [127.5] * 3
        base['model']['data_preprocessor'].pop(name)
    assert ours == base


@pytest.mark.slow
def test_loss_reaches_every_parameter():
    torch.manual_seed(0)
    cfg = config('ti')
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    model = MODELS.build(cfg.model).train()
    losses = model(**model.data_preprocessor(one_batch(96, 128), True), mode='loss')
    loss, log = model.parse_losses(losses)
    assert all(torch.isfinite(value).all() for value in log.values())
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
