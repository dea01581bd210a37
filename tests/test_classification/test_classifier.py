"""The classifier is the authors', and loads their files as well as its own."""

from mobilevig_det.classification import load_classifier
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from checkpoints import imagenet_checkpoint
from mmdet.registry import MODELS
from reference import ARCHS, golden_features, golden_input, golden_state_dict

WIDTH = dict(ti=512, s=512, m=768, b=768)
LAST = dict(ti=256, s=256, m=400, b=464)


def build(arch='ti', num_classes=1000, **kwargs):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='MobileViG', arch=arch),
            head=dict(
                type='DistilledHead',
                in_channels=LAST[arch],
                hidden_channels=WIDTH[arch],
                num_classes=num_classes,
            ),
            **kwargs,
        )
    )


@pytest.mark.parametrize('arch', ARCHS)
def test_logits_equal_the_authors(arch):
    model = build(arch)
    model.load_state_dict(golden_state_dict(arch), strict=True)
    model.eval()
    for size in ((64, 96), (160, 160)):
        with torch.no_grad():
            logits = model(golden_input(*size))
        want = golden_features()[f'{arch}/{size[0]}x{size[1]}/logits_mean_std']
        assert logits.shape == (1, 1000)
        np.testing.assert_allclose(
            [float(logits.mean()), float(logits.std())],
            want,
            rtol=1e-5,
            atol=1e-5 * want[1],
        )


@pytest.mark.parametrize(
    'arch, millions', [('ti', 5.27), ('s', 7.28), ('m', 14.08), ('b', 26.87)]
)
def test_parameters(arch, millions):
    count = sum(p.numel() for p in build(arch).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.fixture(scope='module')
def model():
    return build()


def test_raw_and_averaged_weights_are_loaded(model, tmp_path):
    checkpoint = imagenet_checkpoint()
    torch.save(checkpoint, tmp_path / 'm.pth.tar')
    for averaged, key in ((False, 'state_dict'), (True, 'state_dict_ema')):
        load_classifier(model, str(tmp_path / 'm.pth.tar'), averaged)
        bias = checkpoint[key]['head.bias']
        assert torch.equal(model.head.head.bias, bias)
        first = checkpoint[key]['stem.stem.0.weight']
        assert torch.equal(model.backbone.stem[0].conv.weight, first)


def test_missing_averaged_weights_are_an_error(model, tmp_path):
    torch.save(imagenet_checkpoint(averaged=False), tmp_path / 'm.pth')
    load_classifier(model, str(tmp_path / 'm.pth'))
    with pytest.raises(UserError, match='no averaged weights'):
        load_classifier(model, str(tmp_path / 'm.pth'), averaged=True)


def test_saved_classifier_loads_again(model, tmp_path):
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'ours.pth')
    other = build()
    load_classifier(other, f'mobilevig://{tmp_path}/ours.pth')
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda w: w, 'has 1000 classes, this config.s 10'),
        (
            lambda w: {k: v for k, v in w.items() if 'head' not in k},
            'lacks head.weight',
        ),
        (
            lambda w: {k: w[k] for k in w if 'stem' in k or 'backbone' in k},
            'is missing: the file is of a backbone',
        ),
        (
            lambda w: (
                {k: v[:10] if 'head' in k else v for k, v in w.items()}
                | {'prediction.1.bias': torch.zeros(7)}
            ),
            r'prediction.1.bias \(7,\) instead of \(512,\)',
        ),
        (lambda w: {'fc.weight': torch.zeros(3)}, "no weights under 'backbone"),
    ],
)
def test_misfit_of_the_head_is_explained(change, message, tmp_path):
    torch.save(change(golden_state_dict('ti')), tmp_path / 'file.pth')
    with pytest.raises(UserError, match=message):
        load_classifier(build(num_classes=10), str(tmp_path / 'file.pth'))


def test_file_of_another_size_is_refused(tmp_path):
    torch.save(golden_state_dict('ti'), tmp_path / 'file.pth')
    with pytest.raises(UserError, match="arch='ti'|does not fit"):
        load_classifier(build('s'), str(tmp_path / 'file.pth'))


def test_unknown_mode_is_an_error(model):
    with pytest.raises(UserError, match='mode must be'):
        model.eval()(torch.zeros(1, 3, 32, 32), mode='train')
