"""mmcv's own modules, on our functions in place of its extension."""

import copy
import importlib
import inspect
import types

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import deform_conv_mmcv as ours
from mobilevig_det.mmcv_ops.deform_conv import deform_conv2d

import pytest
import torch
from mmcv_reference import largest_difference, load_cases, needs_compiled_mmcv
from torch import nn

mmcv_ops = pytest.importorskip('mmcv.ops')
V1 = importlib.import_module('mmcv.ops.deform_conv')
V2 = importlib.import_module('mmcv.ops.modulated_deform_conv')
OURS = types.SimpleNamespace(
    **{name: f for name, f in vars(ours).items() if inspect.isfunction(f)}
)


@pytest.fixture
def on_ours(monkeypatch):
    for module in (V1, V2):
        monkeypatch.setattr(module, 'ext_module', OURS)


def grads(function, *inputs, modules=()):
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    random = torch.Generator().manual_seed(1)
    grad = torch.randint(-3, 4, out.shape, generator=random)  # exact in any dtype
    out.backward(grad.to(out.dtype))
    parameters = [p for m in modules for p in m.parameters()]
    result = [out.detach(), *(t.grad.clone() for t in (*inputs, *parameters))]
    for parameter in parameters:
        parameter.grad = None
    return result


@pytest.mark.parametrize('operator', ['deform_conv2d', 'modulated_deform_conv2d'])
def test_functions_on_the_reference_data(operator, on_ours):
    for case in load_cases('mmcv_ops_dcn.npz', operator).values():
        settings = case['args'].tolist()
        names = [n for n in ('x', 'offset', 'mask', 'weight', 'bias') if n in case]
        inputs = [case[n].clone().requires_grad_() for n in names]
        out = getattr(mmcv_ops, operator)(*inputs, *settings)
        out.backward(case['g'])
        assert largest_difference(out.detach(), case['y']) < 1e-5
        for name, tensor in zip(names, inputs, strict=True):
            assert largest_difference(tensor.grad, case[f'grad_{name}']) < 1e-5, name


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
@pytest.mark.parametrize(
    'kind', [mmcv_ops.DeformConv2dPack, mmcv_ops.ModulatedDeformConv2dPack]
)
def test_packs_against_compiled_mmcv(kind, kwargs, size, monkeypatch):
    if kind is mmcv_ops.DeformConv2dPack and min(size) < 3:
        pytest.skip('mmcv refuses a map smaller than the kernel')
    if kwargs.get('dilation') and min(size) < 3:
        pytest.skip('the output would be empty')
    conv = make_modules(kind, **kwargs)
    x = torch.randn(3, 8, *size)
    expected = grads(conv, x, modules=[conv])
    for module in (V1, V2):
        monkeypatch.setattr(module, 'ext_module', OURS)
    actual = grads(conv, x, modules=[conv])
    for value, expected_value in zip(actual, expected, strict=True):
        assert largest_difference(value, expected_value) < 1e-5


@needs_compiled_mmcv
@pytest.mark.parametrize('size', [(1, 1), (2, 5), (8, 7)])
@pytest.mark.parametrize('im2col_step', [1, 2, 32])
def test_deform_conv_against_compiled_mmcv(im2col_step, size, monkeypatch):
    """At offsets of 0, on whole pixels, too, where the gradient has a step."""
    conv = make_modules(mmcv_ops.DeformConv2d, im2col_step=im2col_step, deform_groups=2)
    x = torch.randn(4, 8, *size)
    offset = torch.randint(-2, 3, (4, 36, *size)) / 2
    expected = grads(conv, x, offset, modules=[conv])
    monkeypatch.setattr(V1, 'ext_module', OURS)
    actual = grads(conv, x, offset, modules=[conv])
    for value, expected_value in zip(actual, expected, strict=True):
        assert largest_difference(value, expected_value) < 1e-5


@pytest.mark.parametrize('modulated', [True, False])
def test_heights_and_widths_are_not_mixed_up(modulated, on_ours):
    settings = (2, 1), (1, 0), (1, 2), 2, 1
    x, offset = torch.randn(2, 4, 5, 8), torch.randn(2, 12, 3, 6)
    mask, weight = torch.rand(2, 6, 3, 6), torch.randn(6, 2, 3, 2)
    if modulated:
        actual = grads(
            lambda *t: mmcv_ops.modulated_deform_conv2d(*t, None, *settings),
            *(x, offset, mask, weight),
        )
        expected = grads(
            lambda x, o, m, w: deform_conv2d(x, o, w, None, *settings, m),
            *(x, offset, mask, weight),
        )
    else:
        inputs = x, offset, weight
        actual = grads(lambda *t: mmcv_ops.deform_conv2d(*t, *settings), *inputs)
        expected = grads(lambda *t: deform_conv2d(*t, None, *settings), *inputs)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype, on_ours):
    conv = make_modules(mmcv_ops.ModulatedDeformConv2d).to(dtype)
    exact = copy.deepcopy(conv).double()
    shapes = ((2, 8, 5, 4), (2, 18, 5, 4), (2, 9, 5, 4))
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    actual = grads(conv, *inputs, modules=[conv])
    expected = grads(exact, *(t.double() for t in inputs), modules=[exact])
    for value, expected_value in zip(actual, expected, strict=True):
        assert value.dtype == dtype
        assert largest_difference(value, expected_value) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    'kind', [mmcv_ops.DeformConv2dPack, mmcv_ops.ModulatedDeformConv2dPack]
)
def test_under_autocast(kind, on_ours):
    conv = make_modules(kind)
    x = torch.randn(2, 8, 5, 4)
    with torch.autocast('cpu', torch.bfloat16):
        out, *actual = grads(conv, x, modules=[conv])
    assert out.dtype == torch.bfloat16
    for value in actual:
        assert value.dtype == torch.float32 and value.isfinite().all()


def test_adds_to_gradients_that_are_there(on_ours):
    case = next(iter(load_cases('mmcv_ops_dcn.npz', 'deform_conv2d').values()))
    (sh, pad, dilation, groups, deform), w = case['args'].tolist(), case['weight']
    sizes = dict(kW=3, kH=3, dW=sh, dH=sh, padW=pad, padH=pad, im2col_step=1)
    sizes |= dict(dilationW=dilation, dilationH=dilation)
    sizes |= dict(group=groups, deformable_group=deform)
    one, empty = torch.ones_like(w), w.new_empty(0)
    OURS.deform_conv_backward_parameters(
        case['x'], case['offset'], case['g'], one, empty, empty, scale=2, **sizes
    )
    assert largest_difference(one, 1 + 2 * case['grad_weight']) < 1e-5


def test_sizes_that_do_not_fit(on_ours):
    conv = make_modules(mmcv_ops.DeformConv2d)
    with pytest.raises(UserError, match='offset must have the shape'):
        conv(torch.zeros(2, 8, 5, 5), torch.zeros(2, 18, 4, 5))


@pytest.mark.parametrize(
    'kind', [mmcv_ops.DeformConv2dPack, mmcv_ops.ModulatedDeformConv2dPack]
)
def test_exported_as_plain_operations(kind, on_ours):
    conv = make_modules(kind).eval()
    x = torch.randn(2, 8, 5, 4)
    program = torch.export.export(conv, (x,))
    names = {str(n.target) for n in program.graph.nodes if n.op == 'call_function'}
    assert all(n.startswith(('aten.', '<built-in')) for n in names), names
    torch.testing.assert_close(program.module()(x), conv(x))
