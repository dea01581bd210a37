"""Deformable convolution through mmcv's modules, compared with compiled mmcv."""

import copy
import importlib

from mobilevig_det.mmcv_ops import deform_conv as module

import mmcv.ops as ops
import pytest
import torch
from mmcv_reference import largest_difference, load_cases, needs_compiled_mmcv
from torch import nn

V1 = importlib.import_module('mmcv.ops.deform_conv')
V2 = importlib.import_module('mmcv.ops.modulated_deform_conv')


@pytest.fixture(autouse=True, scope='module')
def on_our_operators():
    """Let mmcv's functions call this package's operators instead of its extension."""
    with pytest.MonkeyPatch.context() as patch:
        for each in (V1, V2):
            patch.setattr(each, 'ext_module', module)
        yield


def module_grads(conv, *inputs):
    """Output, and the gradients of inputs and parameters."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    conv.zero_grad()
    out = conv(*inputs)
    random = torch.Generator().manual_seed(1)
    grad = torch.randint(-3, 4, out.shape, generator=random)  # exact in any dtype
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(t.grad.clone() for t in (*inputs, *conv.parameters()))]


def make_modules(kind, **kwargs):
    torch.manual_seed(0)
    conv = kind(8, 6, 3, padding=1, **kwargs)
    if hasattr(conv, 'conv_offset'):
        nn.init.normal_(conv.conv_offset.weight, std=0.3)
        nn.init.normal_(conv.conv_offset.bias, std=0.3)
    return conv


@needs_compiled_mmcv
@pytest.mark.parametrize('size', [(1, 1), (1, 5), (7, 2), (9, 11)])
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(stride=2),
        dict(groups=2),
        dict(deform_groups=4),
        dict(dilation=2),
        dict(groups=2, deform_groups=2, stride=2),
    ],
    ids=str,
)
@pytest.mark.parametrize('kind', [ops.DeformConv2dPack, ops.ModulatedDeformConv2dPack])
def test_packs_against_compiled_mmcv(kind, kwargs, size, monkeypatch):
    if kind is ops.DeformConv2dPack and min(size) < 3:
        pytest.skip('mmcv refuses a map smaller than the kernel')
    if kwargs.get('dilation') and min(size) < 3:
        pytest.skip('the output would be empty')
    conv = make_modules(kind, **kwargs)
    x = torch.randn(3, 8, *size)
    actual = module_grads(conv, x)
    for each in (V1, V2):
        monkeypatch.setattr(each, 'ext_module', importlib.import_module('mmcv._ext'))
    expected = module_grads(conv, x)
    for value, expected_value in zip(actual, expected, strict=True):
        assert largest_difference(value, expected_value) < 1e-5


@needs_compiled_mmcv
@pytest.mark.parametrize('size', [(1, 1), (2, 5), (8, 7)])
@pytest.mark.parametrize('im2col_step', [1, 2, 32])
def test_deform_conv_against_compiled_mmcv(im2col_step, size, monkeypatch):
    """Also at offsets of whole pixels, where the gradient has a step."""
    conv = make_modules(ops.DeformConv2d, im2col_step=im2col_step, deform_groups=2)
    x = torch.randn(4, 8, *size)
    offset = torch.randint(-2, 3, (4, 36, *size)) / 2
    actual = module_grads(conv, x, offset)
    monkeypatch.setattr(V1, 'ext_module', importlib.import_module('mmcv._ext'))
    expected = module_grads(conv, x, offset)
    for value, expected_value in zip(actual, expected, strict=True):
        assert largest_difference(value, expected_value) < 1e-5


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_modules_in_other_dtypes(dtype):
    conv = make_modules(ops.ModulatedDeformConv2d).to(dtype)
    exact = copy.deepcopy(conv).double()
    shapes = ((2, 8, 5, 4), (2, 18, 5, 4), (2, 9, 5, 4))
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    actual = module_grads(conv, *inputs)
    expected = module_grads(exact, *(t.double() for t in inputs))
    for value, expected_value in zip(actual, expected, strict=True):
        assert value.dtype == dtype
        assert largest_difference(value, expected_value) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize('kind', [ops.DeformConv2dPack, ops.ModulatedDeformConv2dPack])
def test_modules_under_autocast(kind):
    conv = make_modules(kind)
    x = torch.randn(2, 8, 5, 4)
    with torch.autocast('cpu', torch.bfloat16):
        out, *actual = module_grads(conv, x)
    assert out.dtype == torch.bfloat16
    for value in actual:
        assert value.dtype == torch.float32 and value.isfinite().all()


def test_gradients_are_added_to_the_buffer():
    case = next(iter(load_cases('mmcv_ops_dcn.npz', 'deform_conv2d').values()))
    (sh, pad, dilation, groups, deform), w = case['args'].tolist(), case['weight']
    sizes = dict(kW=3, kH=3, dW=sh, dH=sh, padW=pad, padH=pad, im2col_step=1)
    sizes |= dict(dilationW=dilation, dilationH=dilation)
    sizes |= dict(group=groups, deformable_group=deform)
    one, empty = torch.ones_like(w), w.new_empty(0)
    module.deform_conv_backward_parameters(
        case['x'], case['offset'], case['g'], one, empty, empty, scale=2, **sizes
    )
    assert largest_difference(one, 1 + 2 * case['grad_weight']) < 1e-5


@pytest.mark.parametrize('kind', [ops.DeformConv2dPack, ops.ModulatedDeformConv2dPack])
def test_exported_as_plain_operations(kind):
    conv = make_modules(kind).eval()
    x = torch.randn(2, 8, 5, 4)
    program = torch.export.export(conv, (x,))
    names = {str(n.target) for n in program.graph.nodes if n.op == 'call_function'}
    assert all(n.startswith(('aten.', '<built-in')) for n in names), names
    torch.testing.assert_close(program.module()(x), conv(x))
