"""GreedyViG in the proof: another rounding is followed, another step is noticed."""

from mobilevig_det import GreedyViG
from mobilevig_det.export import admission
from mobilevig_det.export.admission import following, loaded_with_steps, take_steps
from mobilevig_det.export.onnx_file import write_onnx_backbone
from mobilevig_det.ops import dagc
from mobilevig_det.ops.dagc import naive_thresholded_max

import numpy as np
import pytest
import torch

ARCH = dict(channels=[4, 8, 8, 12], blocks=[1] * 4, graph_blocks=[0, 1, 1, 1])


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return GreedyViG(ARCH, layer_scale_init_value=1.0).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def image():
    """Whose maps have sides that K doesn't divide."""
    return torch.randn(1, 3, 104, 168, generator=torch.manual_seed(0))


def as_file(model, image, step):
    """What a file with that step would give: results of the steps, and maps."""
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


def beside(model, image, results):
    """PyTorch's maps that follow them, and what is wrong."""
    wrong = []
    with following(model, results, wrong):
        maps = model(image)
    return maps, wrong


def test_another_rounding_is_followed(model, image, monkeypatch):
    monkeypatch.setattr(admission, 'ROUNDING', 5e-3)

    def nearly(x, stride):
        slack = 2e-3 * float(x.abs().max()) * x.shape[1]
        return naive_thresholded_max(x, stride, slack=slack)

    results, expected = as_file(model, image, nearly)
    plain = model(image)
    assert (plain[-1] - expected[-1]).abs().max() > 0.01 * plain[-1].abs().max()
    maps, wrong = beside(model, image, results)
    assert not wrong
    for found, want in zip(maps, expected):
        torch.testing.assert_close(found, want)
    # And forgotten afterwards.
    assert torch.equal(model(image)[-1], plain[-1])
    monkeypatch.setattr(admission, 'ROUNDING', 1e-3)
    assert beside(model, image, results)[1]


MISTAKES = {
    'wrong sign': lambda x, stride: naive_thresholded_max(-x, stride),
    'wrong direction': lambda x, stride: naive_thresholded_max(
        x.flip(2, 3), stride
    ).flip(2, 3),
    'another K': lambda x, stride: naive_thresholded_max(x, stride + 1),
    'everyone admitted': lambda x, stride: naive_thresholded_max(x, stride, slack=1e3),
    'nobody admitted': lambda x, stride: torch.zeros_like(x),
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


@pytest.mark.parametrize('mistake', [*MISTAKES, 'biased', 'another shape'])
def test_another_step_is_noticed(model, image, mistake):
    if mistake == 'another shape':
        results, _ = as_file(model, image, naive_thresholded_max)
        results[1] = results[1][:, :, 1:]
    else:
        results, _ = as_file(model, image, MISTAKES.get(mistake, biased))
    _, wrong = beside(model, image, results)
    assert wrong and all('graph step' in words for words in wrong)


@pytest.mark.slow
def test_files_show_their_steps(model, image, tmp_path):
    path = tmp_path / 'maps.onnx'
    write_onnx_backbone(model, path, None, {})
    expected, maps = as_file(model, image, naive_thresholded_max)
    with loaded_with_steps(path) as session:
        outputs = session(image=image.numpy())
    results = take_steps(outputs)
    assert list(outputs) == [f'map{i}' for i in range(4)]
    for found, want in zip(results, expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs['map3'], maps[3], rtol=1e-3, atol=1e-4)
    write_onnx_backbone(model, path, (104, 168), {})
    with loaded_with_steps(path) as session:
        assert not take_steps(session(image=image.numpy()))
