"""CARAFE and masked convolution, compared with their definitions."""

import importlib
import sys

from mobilevig_det.mmcv_ops import carafe as module

import pytest
import torch
from mmcv.ops import CARAFEPack, masked_conv2d
from naive_ops import carafe as naive
from torch.autograd import gradcheck

MMCV = importlib.import_module('mmcv.ops.carafe')
CASES = [
    dict(),
    dict(batch=1, size=(1, 1)),
    dict(kernel_size=1, scale=1),
    dict(kernel_size=5, groups=3, size=(2, 7)),
    dict(scale=3, groups=2),
    dict(batch=0),
]


@pytest.fixture(autouse=True)
def on_our_operators(monkeypatch):
    backward = staticmethod(module.carafe_naive_backward_on_any_device)
    monkeypatch.setattr(MMCV, 'ext_module', module)
    monkeypatch.setattr(MMCV.CARAFENaiveFunction, 'backward', backward)


def make_case(
    batch=2,
    channels=6,
    size=(4, 3),
    kernel_size=3,
    groups=1,
    scale=2,
    dtype=torch.float64,
):
    """Arguments of mmcv's function, in order."""
    torch.manual_seed(0)
    masks = batch, groups * kernel_size**2, *(scale * n for n in size)
    features = torch.randn(batch, channels, *size, dtype=torch.float64)
    masks = torch.randn(masks, dtype=torch.float64)
    return features.to(dtype), masks.to(dtype), kernel_size, groups, scale


@pytest.mark.parametrize('function', [MMCV.carafe, MMCV.carafe_naive])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_the_definition(case, function):
    arguments = make_case(**case)
    expected = naive(*(a.numpy() if torch.is_tensor(a) else a for a in arguments))
    out = function(*arguments)
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize('function', [MMCV.carafe, MMCV.carafe_naive])
@pytest.mark.parametrize('case', CASES[:-1], ids=str)
def test_gradcheck(case, function):
    features, masks, *settings = make_case(**case)
    inputs = features.requires_grad_(), masks.requires_grad_()
    assert gradcheck(
        lambda *tensors: function(*tensors, *settings), inputs, fast_mode=True
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype):
    features, masks, *settings = make_case(channels=32, dtype=dtype)

    def run(dtype, autocast):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (features, masks)]
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = MMCV.carafe(*leaves, *settings)
        out.backward(torch.ones_like(out))
        return [out, *(leaf.grad for leaf in leaves)]

    expected = run(torch.float32, False)
    for actual in (run(dtype, False), run(torch.float32, True)):
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b.to(a.dtype))


def test_rows_in_parts_are_those_at_once(monkeypatch):
    features, masks, *settings = make_case(size=(7, 5), kernel_size=5)

    def run():
        leaves = [t.clone().requires_grad_() for t in (features, masks)]
        out = MMCV.carafe(*leaves, *settings)
        out.square().sum().backward()
        return [out, *(leaf.grad for leaf in leaves)]

    expected = run()
    monkeypatch.setattr(module, 'parts', lambda *_: [slice(0, 3), slice(3, 7)])
    torch.testing.assert_close(run(), expected)


def test_nan_reaches_only_its_neighbours():
    features, masks, *settings = make_case(size=(6, 6))
    features[:, :, 0, 0] = torch.nan
    out = MMCV.carafe(features, masks, *settings)
    assert out[:, :, :4, :4].isnan().all()
    assert out[:, :, 4:].isfinite().all() and out[..., 4:].isfinite().all()


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
def test_layer_of_mmcv_trains_under_autocast(memory_format):
    torch.manual_seed(0)
    layer = CARAFEPack(8, 2, up_kernel=3, up_group=2, compressed_channels=4)
    x = torch.randn(2, 8, 5, 4).to(memory_format=memory_format).requires_grad_()
    expected = layer(x)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x)
    assert out.shape == (2, 8, 10, 8) and out.dtype == x.dtype
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)
    out.sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.fixture
def masked_conv_on_our_operators(monkeypatch):
    theirs = sys.modules['mmcv.ops.masked_conv']
    monkeypatch.setattr(theirs, 'ext_module', module)


@pytest.mark.parametrize(
    'size, kernel, padding',
    [
        ((1, 1), (1, 1), 0),
        ((1, 1), (3, 3), 1),
        ((5, 8), (3, 3), 1),
        ((6, 5), (1, 3), 0),
    ],
)
@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
def test_masked_conv_is_a_plain_convolution_at_the_mask(
    masked_conv_on_our_operators, size, kernel, padding, share
):
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(1, 3, *size),
        torch.randn(4, 3, *kernel),
        torch.ones(4),
    )
    whole = torch.nn.functional.conv2d(x, weight, bias, padding=padding)
    mask = torch.rand(1, *size) < share
    # Where the output is smaller than the mask, only what is in it can be asked.
    mask[:, whole.shape[2] :] = mask[:, :, whole.shape[3] :] = False
    found = masked_conv2d(x, mask, weight, bias, padding)
    inside = mask[:, None, : whole.shape[2], : whole.shape[3]]
    torch.testing.assert_close(found, whole * inside)
