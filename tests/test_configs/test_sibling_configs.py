"""The siblings' Mask R-CNN configs: MobileViG's recipe but for what is published."""

from mobilevig_det.config import load_config

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from siblings import ALL, CLASSES, ONE_AND_OTHERS
from test_configs import one_batch

SMALL_DECAY = [('mobilevigv2', 'b'), ('adaptvig', 'm'), ('adaptvig', 's')]


def config(family, size):
    init_default_scope('mmdet')
    return load_config(f'{family}_{size}_fpn_1x')


@pytest.mark.parametrize('family, size', ALL)
def test_recipe_is_mobilevigs(family, size):
    ours, base = (
        cfg.to_dict()
        for cfg in (config(family, size), load_config('mobilevig_m_fpn_1x'))
    )
    backbone = ours['model'].pop('backbone')
    standard = base['model'].pop('backbone')
    cls = MODELS.get(CLASSES[family])
    assert backbone.pop('type') == CLASSES[family]
    assert backbone.pop('arch') == size
    assert backbone.pop('init_cfg') == dict(
        type='Pretrained', checkpoint=f'mobilevig://{family}-{size}'
    )
    assert backbone == {k: standard[k] for k in ('drop_path_rate', 'norm_eval')}
    assert ours['model']['neck'].pop('in_channels') == cls.out_channels(size)
    base['model']['neck'].pop('in_channels')
    decay = ours['optim_wrapper']['optimizer'].pop('weight_decay')
    assert decay == (0.0001 if (family, size) in SMALL_DECAY else 0.05)
    base['optim_wrapper']['optimizer'].pop('weight_decay')
    images = ours['train_dataloader'].pop('batch_size')
    assert images == (2 if family == 'adaptvig' else 1)
    base['train_dataloader'].pop('batch_size')
    assert ours == base


@pytest.mark.parametrize('family, size', ONE_AND_OTHERS)
def test_loss_reaches_every_parameter(family, size):
    torch.manual_seed(0)
    cfg = config(family, size)
    cfg.model.backbone.init_cfg = None
    # At 1e-5 float32 would not tell whether a mixer's links are used.
    cfg.model.backbone.layer_scale_init_value = 1.0
    cfg.model.backbone.drop_path_rate = 0.0
    model = MODELS.build(cfg.model).train()
    losses = model(**model.data_preprocessor(one_batch(96, 128), True), mode='loss')
    loss, log = model.parse_losses(losses)
    assert all(torch.isfinite(value).all() for value in log.values())
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    # Scales, norms and temperatures decay as all others do.
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    optimized = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert optimized == {id(p) for p in model.parameters()}
    decays = {group['weight_decay'] for group in optimizer.param_groups}
    assert decays == {cfg.optim_wrapper.optimizer.weight_decay}
