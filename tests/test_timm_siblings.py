"""MobileViG's siblings in timm: the authors' logits, and differences by family."""

import math

from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from siblings import (
    ONE_EACH_AND_OTHERS,
    PARAMETERS,
    SMALLEST,
    golden,
    golden_input,
    golden_state_dict,
)

FILES = dict(
    mobilevigv2='MobileViG_V2_Ti_Class.pth',
    greedyvig='S_GreedyViG_81_1.pth',
    rapidnet='RapidNet_Ti.pth',
    adaptvig='AdaptViG_S_model_best.pth',
)


@pytest.mark.parametrize('family, size', ONE_EACH_AND_OTHERS)
def test_logits_equal_the_authors(timm, tmp_path, family, size):
    """With a file in their layout. Weights are named as in our classifier."""
    averaged = golden_state_dict(family, size)
    raw = {k: v + 1 if v.is_floating_point() else v for k, v in averaged.items()}
    path = tmp_path / 'model_best.pth'
    torch.save(dict(state_dict=raw, state_dict_ema=averaged), path)
    model = timm.create_model(f'{family}_{size}', checkpoint_path=str(path)).eval()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[family, size]
    with torch.no_grad():
        logits = model(golden_input(2, 64, 96, seed=42)).numpy()
    want = golden()[f'{family}/{size}/2x64x96/s42/logits']
    assert np.abs(logits[:, ::16] - want).max() <= 1e-5 * np.abs(want).max()

    names = model.state_dict()
    for layer in (model.default_cfg['first_conv'], *model.default_cfg['classifier']):
        assert f'{layer}.weight' in names
    cfg = load_config(f'{family}_{size}_300e').model
    ours = MODELS.build(
        dict(type='ImageClassifier', backbone=cfg.backbone, head=cfg.head)
    )
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in names.items()
    }


@pytest.mark.parametrize('way', ['getter', 'hook'])
@pytest.mark.parametrize('family, size', ONE_EACH_AND_OTHERS)
def test_features(timm, family, size, way):
    model = timm.create_model(
        f'{family}_{size}', features_only=True, out_indices=(0, 2), feature_cls=way
    ).eval()
    body = model['model' if way == 'getter' else 'body'].backbone
    channels = type(body).out_channels(size)
    assert model.feature_info.channels() == channels[::2]
    assert model.feature_info.reduction() == [4, 16]
    with torch.no_grad():
        images = torch.rand(2, 3, 65, 96)
        maps, whole = model(images), body(images)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, math.ceil(65 / r), math.ceil(96 / r))
        for c, r in zip(channels[::2], (4, 16))
    ]
    for i, found in zip((0, 2), maps):  # the body of a getter has only these
        expected = whole[i] if len(whole) > 2 else whole[i // 2]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('family, size', SMALLEST)
def test_layers_by_depth_and_gradients(timm, family, size):
    """Every weight belongs to a layer, in forward order, and gets a gradient.

    The gradients are the same with checkpointing.
    """
    from timm.models import group_parameters

    torch.manual_seed(0)
    model = timm.create_model(f'{family}_{size}', num_classes=3).eval()
    weights = dict(model.named_parameters())
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups.keys() == weights.keys()
    blocks = [len(list(stage.children())) for stage in model.backbone.stages]
    assert set(groups.values()) == set(range(1 + sum(blocks) + 3 + 1))
    of_blocks = [
        groups[next(k for k in weights if k.startswith(f'backbone.stages.{i}.{j}.'))]
        for i, number in enumerate(blocks)
        for j in range(number)
    ]
    assert of_blocks == sorted(set(of_blocks))

    images = torch.rand(1, 3, 64, 64)
    names = [key for key, p in weights.items() if p.ndim]
    want = torch.autograd.grad(model(images).sum(), [weights[k] for k in names])
    assert all(g.isfinite().all() for g in want)
    model.set_grad_checkpointing()
    got = torch.autograd.grad(model(images).sum(), [weights[k] for k in names])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('family, size', SMALLEST)
def test_published_file(timm, tmp_path, monkeypatch, family, size):
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    if family == 'mobilevigv2':
        with pytest.raises(UserError, match='address.*pretrained_cfg_overlay'):
            timm.create_model(f'{family}_{size}', pretrained=True)
    weights = golden_state_dict(family, size)
    torch.save(
        dict(state_dict_ema=weights, state_dict=weights), tmp_path / FILES[family]
    )
    model = timm.create_model(f'{family}_{size}', pretrained=True)
    assert torch.equal(model.head.head.bias, weights['head.bias'])


def test_file_of_another_family(timm, tmp_path):
    path = tmp_path / 'model_best.pth'
    torch.save(dict(state_dict=golden_state_dict('greedyvig', 's')), path)
    with pytest.raises(UserError, match='GreedyViG'):
        timm.create_model('adaptvig_s', checkpoint_path=str(path))


def test_folded_position_encodings(timm, tmp_path):
    """As MobileViGv2's code can write them."""
    weights = dict(golden_state_dict('mobilevigv2', 'ti'))
    want = weights['backbone.1.3.mixer.cpe.pe.weight']
    for key in [key for key in weights if '.cpe.pe.' in key]:
        value = weights.pop(key).clone()
        if value.dim() == 4:
            value[:, :, 3, 3] += 1
        weights[key.replace('.cpe.pe.', '.cpe.reparam_conv.')] = value
    torch.save(weights, tmp_path / 'folded.pth')
    model = timm.create_model(
        'mobilevigv2_ti', checkpoint_path=str(tmp_path / 'folded.pth')
    )
    got = model.backbone.stages[1][2].mixer.position.weight
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
