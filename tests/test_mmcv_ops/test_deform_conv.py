"""Deformable convolution through mmcv's functions, compared with recorded results of
compiled mmcv and with the definition."""

import importlib

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import bilinear as pieces
from mobilevig_det.mmcv_ops import deform_conv as module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import largest_difference, load_cases
from naive_ops import bilinear

V1 = importlib.import_module('mmcv.ops.deform_conv')
V2 = importlib.import_module('mmcv.ops.modulated_deform_conv')
REFERENCE = {
    f'{operator}/{name}': case
    for operator in ('deform_conv2d', 'modulated_deform_conv2d')
    for name, case in load_cases('mmcv_ops_dcn.npz', operator).items()
}


@pytest.fixture(autouse=True, scope='module')
def on_our_operators():
    """Let mmcv's functions call this package's operators instead of its extension."""
    with pytest.MonkeyPatch.context() as patch:
        for each in (V1, V2):
            patch.setattr(each, 'ext_module', module)
        yield


def deform_conv2d(x, offset, weight, bias, *settings_and_mask):
    """Call mmcv's function of version 2 if there is a mask, otherwise of version 1."""
    *settings, mask = settings_and_mask
    if mask is None:
        assert bias is None
        return V1.deform_conv2d(x, offset, weight, *settings)
    return V2.modulated_deform_conv2d(x, offset, mask, weight, bias, *settings)


def naive(x, offset, weight, bias, stride, padding, dilation, groups, deform, mask):
    """A loop over outputs, channels and taps."""
    batch, _, out_height, out_width = offset.shape
    out_channels, per_group, kernel_height, kernel_width = weight.shape
    out = torch.zeros(batch, out_channels, out_height, out_width, dtype=x.dtype)
    per_deform = x.shape[1] // max(deform, 1)
    maps = x.tolist()
    for b, o, h, w in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        total = 0.0 if bias is None else float(bias[o])
        for c in range(per_group):
            channel = o // (out_channels // groups) * per_group + c
            for i in range(kernel_height):
                for j in range(kernel_width):
                    tap = channel // per_deform * kernel_height * kernel_width
                    tap += i * kernel_width + j
                    dy, dx = offset[b, 2 * tap : 2 * tap + 2, h, w].tolist()
                    y = h * stride[0] - padding[0] + i * dilation[0] + dy
                    z = w * stride[1] - padding[1] + j * dilation[1] + dx
                    sample = bilinear(maps[b][channel], y, z)
                    if mask is not None:
                        sample *= float(mask[b, tap, h, w])
                    total += float(weight[o, c, i, j]) * sample
        out[b, o, h, w] = total
    return out


def out_size(size, kernel, stride, padding, dilation):
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    ]


def make_case(
    batch=2,
    groups=1,
    deform=1,
    channels=4,
    out_channels=4,
    size=(5, 7),
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    modulated=True,
    dtype=torch.float64,
    seed=0,
):
    """Arguments of :func:`deform_conv2d`, in order."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=random).to(dtype)

    out = out_size(size, kernel, stride, padding, dilation)
    taps = deform * kernel[0] * kernel[1]
    return [
        normal(batch, channels, *size),
        normal(batch, 2 * taps, *out) * 2,
        normal(out_channels, channels // groups, *kernel),
        normal(out_channels) if modulated else None,
        stride,
        padding,
        dilation,
        groups,
        deform,
        normal(batch, taps, *out) if modulated else None,
    ]


def grads(function, arguments, grad=None):
    """Output and the gradients of all tensors, by position."""
    leaves = [
        a.detach().clone().requires_grad_() if torch.is_tensor(a) else a
        for a in arguments
    ]
    out = function(*leaves)
    out.backward(torch.ones_like(out) if grad is None else grad)
    return out.detach(), [a.grad for a in leaves if torch.is_tensor(a)]


@pytest.mark.parametrize('name', REFERENCE)
def test_equals_recorded_results_of_compiled_mmcv(name):
    case = REFERENCE[name]
    stride, padding, dilation, groups, deform = case['args'].tolist()
    arguments = [case['x'], case['offset'], case['weight'], case.get('bias')]
    arguments += [stride, padding, dilation, groups, deform, case.get('mask')]
    names = [n for n in ('x', 'offset', 'weight', 'bias', 'mask') if n in case]
    out, actual = grads(deform_conv2d, arguments, case['g'])
    assert largest_difference(out, case['y']) < 1e-5
    for n, grad in zip(names, actual, strict=True):
        assert largest_difference(grad, case[f'grad_{n}']) < 1e-5, n


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    deform=st.integers(1, 2),
    out_channels=st.sampled_from([2, 4]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    modulated=st.booleans(),
    seed=st.integers(0, 9),
    part=st.sampled_from([1, 100, 2**19]),
)
def test_equals_the_definition(part, **shape):
    size = [shape[n] for n in ('size', 'kernel', 'stride', 'padding', 'dilation')]
    if min(out_size(*size)) < 1:
        return
    arguments = make_case(**shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, 'CPU_PART_SIZE', part)
        actual, actual_grads = grads(deform_conv2d, arguments)
    torch.testing.assert_close(actual, naive(*arguments))
    _, plain_grads = grads(by_autograd, arguments)
    for value, expected in zip(actual_grads, plain_grads, strict=True):
        torch.testing.assert_close(value, expected)


def by_autograd(x, offset, weight, bias, *settings_and_mask):
    """Compute all output pixels at once, with the gradients of autograd."""
    *settings, mask = settings_and_mask
    geometry = module.Geometry(tuple(weight.shape[2:]), *settings)
    out = module._convolve_at_once(x, offset, weight, mask, geometry)
    return out if bias is None else out + bias[:, None, None]


@pytest.mark.parametrize('modulated', [True, False])
@pytest.mark.parametrize('groups, deform', [(1, 1), (2, 1), (1, 2), (2, 2), (4, 4)])
def test_gradcheck(groups, deform, modulated):
    arguments = make_case(
        groups=groups, deform=deform, size=(3, 2), modulated=modulated
    )
    arguments = [a.requires_grad_() if torch.is_tensor(a) else a for a in arguments]
    assert torch.autograd.gradcheck(deform_conv2d, arguments)


def test_zero_offsets_give_a_convolution():
    arguments = make_case(
        modulated=False, stride=(2, 1), dilation=(1, 2), padding=(2, 2)
    )
    arguments[1].zero_()
    expected = torch.nn.functional.conv2d(
        arguments[0], arguments[2], None, *arguments[4:7]
    )
    torch.testing.assert_close(deform_conv2d(*arguments), expected)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e30])
def test_offsets_outside_of_the_map_give_zeros(value):
    arguments = make_case()
    arguments[1][:] = value
    arguments[3].zero_()
    out, (x, offset, weight, _, mask) = grads(deform_conv2d, arguments)
    for tensor in (out, x, offset, weight, mask):
        assert not tensor.any()


def test_an_infinite_pixel_reaches_only_its_neighbours():
    arguments = make_case(modulated=False, kernel=(1, 1), padding=(0, 0), batch=1)
    arguments[0][..., 0, 0] = float('inf')
    arguments[1].fill_(-1.5)  # out of the map for the first row and column
    out = deform_conv2d(*arguments)
    assert not out[..., :1, :].any() and not out[..., :1].any()
    assert not out[..., 1, 1].isfinite().any() and out[..., 3:, :].isfinite().all()


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('value', [-1.0, -0.5, 0.0, 4.0, 4.5, 5.0])
def test_gradient_at_the_edges(value, axis):
    """mmcv's rule: 0 at -1 and at the size; between pixels the slope; on a pixel the
    slope to the right (downwards)."""
    x = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0]).view(1, 1, 1, 5)
    offset = torch.zeros(1, 2, 1, 5)
    offset[:, axis] = value - torch.arange(5)
    if axis == 0:
        x, offset = x.transpose(2, 3), offset.transpose(2, 3)
    arguments = [x, offset, torch.ones(1, 1, 1, 1), None, 1, 0, 1, 1, 1, None]
    _, (_, grad, _) = grads(deform_conv2d, arguments)
    expected = {-1.0: 0, -0.5: 2, 0.0: 1, 4.0: -11, 4.5: -11, 5.0: 0}[value]
    assert grad[0, axis].flatten().tolist() == [expected] * 5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('channels', [4, 256])
def test_half_types_are_summed_in_float32(channels, dtype):
    arguments = make_case(channels=channels, dtype=dtype)
    arguments[3] = None
    wide = [a.float() if torch.is_tensor(a) else a for a in arguments]
    out, actual = grads(deform_conv2d, arguments)
    expected_out, expected = grads(deform_conv2d, wide)
    for value, exactly in zip([out, *actual], [expected_out, *expected], strict=True):
        assert value.dtype == dtype
        assert torch.equal(value, exactly.to(dtype))


def test_result_has_the_dtype_of_the_offset_under_autocast():
    arguments = make_case(dtype=torch.float32)
    expected_out, expected = grads(deform_conv2d, arguments)
    arguments[1] = arguments[1].bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        out, actual = grads(deform_conv2d, arguments)
    assert out.dtype == torch.bfloat16
    for argument, value in zip((a for a in arguments if torch.is_tensor(a)), actual):
        assert value.dtype == argument.dtype and value.isfinite().all()


def test_float32_stays_float32_under_autocast():
    arguments = make_case(channels=64, dtype=torch.float32)
    expected = grads(deform_conv2d, arguments)
    with torch.autocast('cpu', torch.bfloat16):
        actual = grads(deform_conv2d, arguments)
    assert torch.equal(actual[0], expected[0])
    for value, expected_value in zip(actual[1], expected[1], strict=True):
        assert torch.equal(value, expected_value)


def test_memory_is_bounded(monkeypatch):
    read = []

    def recorded(rows, index, weight):
        read.append(index.shape[0] * rows.shape[1])
        return pieces.sum_rows(rows, index, weight)

    monkeypatch.setattr(module, 'sum_rows', recorded)
    monkeypatch.setattr(pieces, 'CPU_PART_SIZE', 1000)
    grads(deform_conv2d, make_case(batch=3, size=(9, 9)))
    assert sum(read) == 2 * 3 * 81 * 9 * 4 and max(read) <= 1000


def test_only_requested_gradients_are_computed(monkeypatch):
    arguments = make_case(modulated=False)
    _, (x, offset, weight) = grads(deform_conv2d, arguments)
    for position, expected, missing in (
        (0, x, 'deform_conv_backward_parameters'),
        (2, weight, 'deform_conv_backward_input'),
    ):
        leaves = list(arguments)
        leaves[position] = leaf = arguments[position].clone().requires_grad_()
        with monkeypatch.context() as patch:
            patch.setattr(module, missing, None)
            deform_conv2d(*leaves).sum().backward()
        torch.testing.assert_close(leaf.grad, expected)


def test_memory_format_of_the_input_is_free():
    arguments = make_case()
    expected = grads(deform_conv2d, arguments)
    arguments[0] = arguments[0].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grads(deform_conv2d, arguments), expected)


@pytest.mark.parametrize(
    'position, value, message',
    [
        (0, torch.zeros(3, 4, 5, 7), r'offset must have the shape \(3, 18, 5, 7\)'),
        (0, torch.zeros(2, 3, 5, 7), r'weight must have the shape \(None, 3'),
        (1, torch.zeros(2, 18, 5, 6), r'offset must .* \(2, 18, 5, 7\), not .* 6\)'),
        (1, torch.zeros(2, 9, 5, 7), 'offset must'),
        (3, torch.zeros(5), r'bias must have the shape \(4,\), not \(5,\)'),
        (7, 3, 'groups is 3'),
        (8, 3, 'deform_groups is 3'),
        (9, torch.zeros(2, 8, 5, 7), r'mask must have the shape \(2, 9, 5, 7\)'),
    ],
)
def test_error_names_the_argument_that_does_not_fit(position, value, message):
    arguments = make_case()
    arguments[position] = value
    with pytest.raises(UserError, match=message):
        deform_conv2d(*arguments)


def test_error_for_a_map_smaller_than_the_kernel():
    x, weight = torch.zeros(2, 4, 5, 7), torch.zeros(4, 4, 9, 3)
    geometry = module.Geometry((9, 3), (1, 1), (1, 1), (1, 1), 1, 1)
    with pytest.raises(UserError, match=r'too small for a kernel of \(9, 3\)'):
        module.convolve(x, torch.zeros(2, 54, 0, 7), weight, None, geometry)


@pytest.mark.parametrize('deform', [1, 2])
def test_offsets_and_masks_may_be_larger_than_the_output(deform):
    """Compiled mmcv reads the first values of each image, whatever their shape."""
    arguments = make_case(size=(3, 4), deform=deform)
    larger = make_case(batch=3, size=(6, 7), deform=deform, seed=1)
    for position in (1, 9):
        own, whole = arguments[position], larger[position]
        first = whole[:2].flatten(1)[:, : own[0].numel()]
        arguments[position] = first.reshape(own.shape)
    expected_out, expected = grads(deform_conv2d, arguments)
    arguments[1], arguments[9] = larger[1], larger[9]
    out, actual = grads(deform_conv2d, arguments)
    assert torch.equal(out, expected_out)
    for i, (grad, of_read) in enumerate(zip(actual, expected, strict=True)):
        if i in (1, 4):  # offset and mask
            count = of_read[0].numel()
            assert grad.shape == larger[1 if i == 1 else 9].shape
            assert not grad[2:].any() and not grad[:2].flatten(1)[:, count:].any()
            grad = grad[:2].flatten(1)[:, :count].reshape(of_read.shape)
        assert torch.equal(grad, of_read)


def test_gradcheck_with_larger_offsets_and_masks():
    x, _, weight, bias, *settings, _ = make_case(batch=1, channels=2, size=(2, 3))
    _, offset, *_, mask = make_case(batch=1, channels=2, size=(3, 4))
    weight = weight[:2]
    leaves = [t.requires_grad_() for t in (x, offset, weight, bias[:2], mask)]

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, *settings, mask)

    assert torch.autograd.gradcheck(function, leaves)


def test_memory_format_of_larger_offsets_is_free():
    arguments = make_case(size=(3, 4))
    arguments[1], arguments[9] = (make_case(size=(5, 6))[i] for i in (1, 9))
    expected = grads(deform_conv2d, arguments)
    for i in (1, 9):
        arguments[i] = arguments[i].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grads(deform_conv2d, arguments), expected)
