"""Classifiers of Pyramid ViG: the authors' logits and weights."""

from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from pyramidvig import SIZES, authors_shapes, golden, golden_state_dict
from siblings import golden_input

PARAMETERS = dict(ti=10714376, s=27251912, m=49525832, b=92980328)
TINY = dict(channels=(4, 8, 8, 12), blocks=(1, 1, 1, 1))


@pytest.mark.parametrize('size', SIZES)
def test_configs(size):
    cfg = load_config(f'pyramidvig_{size}_300e')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]
    weights = {
        key: torch.empty(shape, device='meta')
        for key, shape in authors_shapes(size).items()
    }
    model.load_state_dict(weights, strict=True)
    assert model.backbone.stages[1][0].grapher.drop_path.drop_prob > 0
    for name in ('mean', 'std'):
        assert (cfg.model.data_preprocessor[name] == np.full(3, 127.5)).all()
    resize = cfg.test_dataloader.dataset.pipeline[1]
    assert resize.length == (236 if size == 'b' else 248)


def test_logits_equal_the_authors():
    model = MODELS.build(load_config('pyramidvig_ti_300e').model).double().eval()
    model.load_state_dict(golden_state_dict('ti'), strict=True)
    with torch.no_grad():
        logits = model(golden_input(1, 224, 224).double()).numpy()
    want = golden()['vig/ti/224x224/logits']
    assert np.abs(logits[:, ::16] - want).max() <= 1e-6 * np.abs(want).max()


def tiny(kind='ImageClassifier', **kwargs):
    head = dict(type='PyramidHead', in_channels=12, hidden_channels=6, num_classes=5)
    backbone = dict(type='PyramidViG', arch=TINY)
    return MODELS.build(dict(type=kind, backbone=backbone, head=head, **kwargs))


def test_loss_and_checkpoint():
    torch.manual_seed(0)
    model, x = tiny(), torch.rand(4, 3, 64, 64)
    losses = model(x, mode='loss', targets=torch.tensor([0, 1, 2, 3]))
    logits = model(x)
    assert list(losses) == ['loss_head'] and logits.shape == (4, 5)
    losses['loss_head'].backward()
    assert all(p.grad is not None for p in model.parameters())
    other = tiny()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.eval()(x), model.eval()(x))
    # Its backbone starts a detector.
    backbone = MODELS.build(dict(type='PyramidViG', arch=TINY))
    backbone.load_state_dict(model.state_dict())
    weight = model.backbone.state_dict()['stem.pos_embed']
    assert torch.equal(backbone.stem.pos_embed, weight)


def test_head_of_other_classes_is_refused():
    weights = tiny().state_dict()
    weights['head.prediction.4.weight'] = torch.zeros(7, 6, 1, 1)
    weights['head.prediction.4.bias'] = torch.zeros(7)
    with pytest.raises(UserError, match='has 7 classes'):
        tiny().load_state_dict(weights)


def test_distillation_needs_two_classifiers():
    with pytest.raises(UserError, match='PyramidHead has one classifier'):
        tiny('DistillingClassifier', teacher=dict(model='a', checkpoint='b'))
