"""Classifiers of MobileViG's siblings: the authors' logits, weights and decay."""

from mobilevig_det.config import load_config

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from siblings import (
    ONE_EACH_AND_OTHERS,
    PARAMETERS,
    SMALLEST,
    golden,
    golden_input,
    golden_state_dict,
)


def build(family, size):
    cfg = load_config(f'{family}_{size}_300e')
    assert cfg.model.backbone.drop_path_rate == 0.1
    parts = {name: cfg.model[name] for name in ('backbone', 'head')}
    return MODELS.build(dict(type='ImageClassifier', **parts)), cfg


@pytest.mark.parametrize('family, size', ONE_EACH_AND_OTHERS)
def test_logits_equal_the_authors(family, size):
    model, _ = build(family, size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[family, size]
    model.load_state_dict(golden_state_dict(family, size), strict=True)
    with torch.no_grad():
        logits = model.eval()(golden_input(2, 64, 96, seed=42)).numpy()
    want = golden()[f'{family}/{size}/2x64x96/s42/logits']
    assert logits.shape == (2, 1000)
    assert np.abs(logits[:, ::16] - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize('family, size', SMALLEST)
def test_weight_decay(family, size):
    """timm's rule: none on biases and on what has one dimension at most."""
    model, cfg = build(family, size)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    for group in optimizer.optimizer.param_groups:
        for p in group['params']:
            spared = p.ndim <= 1 or names[id(p)].endswith('.bias')
            assert group['weight_decay'] == (0 if spared else 0.05), names[id(p)]
