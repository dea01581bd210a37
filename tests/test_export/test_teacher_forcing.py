"""Teacher forcing of GreedyViG: rounding is accepted, a wrong graph step is not."""

import sys

from mobilevig_det import GreedyViG
from mobilevig_det.export.onnx import write_onnx_backbone
from mobilevig_det.export.verification.teacher_forcing import (
    load_with_graph_steps,
    pop_graph_steps,
    teacher_forcing,
)
from mobilevig_det.ops import dagc
from mobilevig_det.ops.dagc import naive_thresholded_max

import numpy as np
import pytest
import torch
from tiny_backbone import METADATA

ARCH = dict(channels=[4, 8, 8, 12], blocks=[1] * 4, graph_blocks=[0, 1, 1, 1])


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return GreedyViG(ARCH, layer_scale_init_value=1.0).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def image():
    """An image whose maps have sides that K doesn't divide."""
    return torch.randn(1, 3, 104, 168, generator=torch.manual_seed(0))


def as_file(model, image, step):
    """Results of the graph steps, and maps, of a file with that graph step."""
    results = []

    def kept(x, stride):
        results.append(step(x, stride))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        for stage in model.stages[1:]:
            mixer = stage[-1].mixer
            stride = mixer.graph_step.keywords['stride']
            patch.setattr(mixer, 'graph_step', lambda x, s=stride: kept(x, s))
        return results, model(image)


def forced_maps(model, image, results):
    """Maps of PyTorch with teacher forcing, and the errors it reports."""
    wrong = []
    with teacher_forcing(model, results, wrong):
        maps = model(image)
    return maps, wrong


def test_other_rounding_is_accepted(model, image, monkeypatch):
    module = sys.modules[teacher_forcing.__module__]
    monkeypatch.setattr(module, 'ROUNDING', 5e-3)

    def nearly(x, stride):
        slack = 2e-3 * float(x.abs().max()) * x.shape[1]
        return naive_thresholded_max(x, stride, slack=slack)

    results, expected = as_file(model, image, nearly)
    plain = model(image)
    assert (plain[-1] - expected[-1]).abs().max() > 0.01 * plain[-1].abs().max()
    maps, wrong = forced_maps(model, image, results)
    assert not wrong
    for found, want in zip(maps, expected):
        torch.testing.assert_close(found, want)
    # Afterwards the model computes its own graph steps again.
    assert torch.equal(model(image)[-1], plain[-1])
    monkeypatch.setattr(module, 'ROUNDING', 1e-3)
    assert forced_maps(model, image, results)[1]


MISTAKES = {
    'wrong sign': lambda x, stride: naive_thresholded_max(-x, stride),
    'wrong direction': lambda x, stride: naive_thresholded_max(
        x.flip(2, 3), stride
    ).flip(2, 3),
    'wrong K': lambda x, stride: naive_thresholded_max(x, stride + 1),
    'all linked': lambda x, stride: naive_thresholded_max(x, stride, slack=1e3),
    'none linked': lambda x, stride: torch.zeros_like(x),
    'NaN': lambda x, stride: x * torch.nan,
}


def biased(x, stride):
    """Standard deviation over n pixels instead of n - 1."""
    right = dagc.threshold

    def wrong(x):
        pixels = x.shape[2] * x.shape[3]
        half = [-(-n // 2) for n in x.shape[2:]]
        far = (x - torch.roll(x, half, (2, 3))).abs().sum(1).flatten(1)
        return right(x) + far.std(1) * (1 - ((pixels - 1) / pixels) ** 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dagc, 'threshold', wrong)
        return naive_thresholded_max(x, stride)


@pytest.mark.parametrize('mistake', [*MISTAKES, 'biased', 'wrong shape'])
def test_wrong_graph_step_is_reported(model, image, mistake):
    if mistake == 'wrong shape':
        results, _ = as_file(model, image, naive_thresholded_max)
        results[1] = results[1][:, :, 1:]
    else:
        results, _ = as_file(model, image, MISTAKES.get(mistake, biased))
    _, wrong = forced_maps(model, image, results)
    assert wrong and all('graph step' in words for words in wrong)


@pytest.mark.slow
def test_onnx_files_output_their_graph_steps(model, image, tmp_path):
    path = tmp_path / 'maps.onnx'
    write_onnx_backbone(model, path, None, METADATA)
    expected, maps = as_file(model, image, naive_thresholded_max)
    with load_with_graph_steps(path) as session:
        outputs = session(image=image.numpy())
    results = pop_graph_steps(outputs)
    assert list(outputs) == [f'map{i}' for i in range(4)]
    for found, want in zip(results, expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs['map3'], maps[3], rtol=1e-3, atol=1e-4)
    write_onnx_backbone(model, path, (104, 168), METADATA)
    with load_with_graph_steps(path) as session:
        assert not pop_graph_steps(session(image=image.numpy()))
