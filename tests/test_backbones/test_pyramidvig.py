"""Pyramid ViG: the authors' features, and the rules off their image size."""

from mobilevig_det import PyramidViG

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyramidvig import golden, golden_state_dict
from siblings import golden_input

PARAMETERS = dict(ti=9293088, s=25568480, m=47711328, b=90903680)
WITH_CLASSIFIER = dict(ti=10714376, s=27251912, m=49525832, b=92980328)
SIZES = ['ti', 's', *(pytest.param(n, marks=pytest.mark.slow) for n in ('m', 'b'))]


def loaded(size, dtype):
    model = PyramidViG(size).to(dtype).eval()
    model.load_state_dict(golden_state_dict(size), strict=True)
    return model


def logits(x, weights):
    """Compute the authors' classifier, of their ImageNet weights."""
    w = {
        key.removeprefix('prediction.'): value.to(x.dtype)
        for key, value in weights.items()
        if key.startswith('prediction.')
    }
    x = F.conv2d(x.mean((2, 3), keepdim=True), w['0.weight'], w['0.bias'])
    statistics = w['1.running_mean'], w['1.running_var']
    x = F.batch_norm(x, *statistics, w['1.weight'], w['1.bias'])
    return F.conv2d(F.gelu(x), w['4.weight'], w['4.bias']).flatten(1)


def assert_features(features, key, tolerance, weights=None):
    expected = golden()
    for i, x in enumerate(features):
        assert list(x.shape) == expected[f'{key}/stage{i}_shape'].tolist()
        flat, stat = x.detach().flatten().double(), expected[f'{key}/stage{i}_stat']
        sample = flat[:: max(1, flat.numel() // 256)]
        found = torch.stack([flat.mean(), flat.std(correction=0), flat.abs().max()])
        for a, b in ((sample, expected[f'{key}/stage{i}_sample']), (found, stat)):
            error = np.abs(a.numpy() - b).max()
            assert error <= tolerance * stat[2], (key, i, error / stat[2])
    if f'{key}/logits' in expected and weights:
        want = expected[f'{key}/logits']
        error = np.abs(logits(x.detach(), weights)[:, ::16].numpy() - want).max()
        assert error <= tolerance * np.abs(want).max()


@pytest.mark.parametrize('size', SIZES)
def test_features_equal_the_authors(size):
    """In float64: in float32 another neighbour may be the nearest."""
    model, weights = loaded(size, torch.double), golden_state_dict(size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]
    with torch.no_grad():
        for height, width in ((224, 224), (256, 320)):
            features = model(golden_input(1, height, width).double())
            key = f'vig/{size}/{height}x{width}'
            assert_features(features, key, 1e-6, weights)


@pytest.mark.parametrize(
    'size, seed, stages',
    [
        ('ti', 1, 4),
        ('s', 7, 4),
        pytest.param('m', 7, 1, marks=pytest.mark.slow),
        pytest.param('b', 7, 1, marks=pytest.mark.slow),
    ],
)
def test_features_in_float32(size, seed, stages):
    """On inputs that no rounding gives another neighbour, or up to the first one."""
    with torch.no_grad():
        features = loaded(size, torch.float)(golden_input(1, 224, 224, seed))
    key = f'vig/{size}/224x224' + '/s1' * (seed == 1)
    assert_features(features[:stages], key, 1e-5)


@pytest.mark.parametrize(
    'size, shape',
    [
        ('ti', (64, 96)),
        ('ti', (32, 32)),
        ('ti', (200, 168)),
        pytest.param('m', (64, 96), marks=pytest.mark.slow),
    ],
)
def test_sizes_that_the_authors_code_refuses(size, shape):
    """Fewer nodes than neighbours, and sides that the pooling doesn't divide."""
    with torch.no_grad():
        features = loaded(size, torch.double)(golden_input(1, *shape).double())
    assert_features(features, f'vigrule/{size}/{shape[0]}x{shape[1]}', 1e-6)
