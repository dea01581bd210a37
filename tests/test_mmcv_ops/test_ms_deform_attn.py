"""Multi-scale deformable attention through mmcv's function for GPUs, compared with the
definition and with mmcv's function for CPUs."""

import importlib
import itertools

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import ms_deform_attn as module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import largest_difference
from naive_ops import bilinear

mmcv_module = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
F64 = torch.float64


@pytest.fixture(autouse=True, scope='module')
def on_our_operators():
    """Let mmcv's functions call this package's operators instead of its extension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmcv_module, 'ext_module', module)
        yield


def ms_deform_attn(value, shapes, locations, attention, start=None):
    """Call mmcv's function for GPUs, which calls its extension."""
    if start is None:
        start = shapes.prod(1).cumsum(0) - shapes.prod(1)
    apply = mmcv_module.MultiScaleDeformableAttnFunction.apply
    return apply(value, shapes, start, locations, attention, 64)


def naive(value, shapes, locations, attention):
    """A loop over outputs, levels and points."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    out = torch.zeros(batch, queries, heads, channels, dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(shapes.tolist()):
        maps = value[:, start : start + height * width]
        maps = maps.permute(0, 2, 3, 1).unflatten(3, (height, width)).tolist()
        start += height * width
        for b, q, m, c, p in itertools.product(
            *map(range, (batch, queries, heads, channels, points))
        ):
            x, y = locations[b, q, m, level, p].tolist()
            sample = bilinear(maps[b][m][c], y * height - 0.5, x * width - 0.5)
            out[b, q, m, c] += attention[b, q, m, level, p] * sample
    return out.flatten(2)


def make_case(
    batch=2,
    queries=3,
    heads=2,
    channels=3,
    shapes=((3, 4), (1, 1), (2, 1)),
    points=2,
    dtype=F64,
    seed=0,
):
    """Arguments of :func:`ms_deform_attn`, in order."""
    random = torch.Generator().manual_seed(seed)
    keys = sum(height * width for height, width in shapes)
    shape = batch, queries, heads, len(shapes), points
    value = torch.randn(batch, keys, heads, channels, dtype=F64, generator=random)
    locations = torch.rand(*shape, 2, dtype=F64, generator=random) * 1.6 - 0.3
    attention = torch.rand(shape, dtype=F64, generator=random)
    return [
        value.to(dtype),
        torch.tensor(shapes),
        locations.to(dtype),
        attention.to(dtype),
    ]


def grads(function, arguments):
    leaves = [a.clone() for a in arguments]
    for leaf in leaves:
        leaf.requires_grad_(leaf.is_floating_point())
    out = function(*leaves)
    random = torch.Generator().manual_seed(1)
    grad = torch.randint(-3, 4, out.shape, generator=random)  # exact in any dtype
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)]


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 2),
    queries=st.integers(0, 9),
    heads=st.integers(1, 2),
    channels=st.integers(1, 3),
    shapes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3
    ),
    points=st.integers(1, 2),
    seed=st.integers(0, 9),
    part=st.sampled_from([1, 100, 2**24]),
)
def test_equals_the_definition(part, **shape):
    arguments = make_case(**shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'PART_SIZE', part)
        out, *in_parts = grads(ms_deform_attn, arguments)
    torch.testing.assert_close(out, naive(*arguments))
    _, *at_once = grads(ms_deform_attn, arguments)
    torch.testing.assert_close(in_parts, at_once)


def test_gradcheck():
    value, shapes, locations, attention = make_case()
    for tensor in (value, locations, attention):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, x, a: ms_deform_attn(v, shapes, x, a), (value, locations, attention)
    )


@pytest.mark.parametrize('dtype', [torch.float32, F64])
def test_equals_the_function_for_cpus(dtype):
    sizes = ((13, 20), (7, 10), (4, 5), (1, 2))
    arguments = make_case(queries=40, shapes=sizes, channels=8, points=4, dtype=dtype)
    expected = grads(mmcv_module.multi_scale_deformable_attn_pytorch, arguments)
    for value, expected_value in zip(
        grads(ms_deform_attn, arguments), expected, strict=True
    ):
        assert value.dtype == dtype
        assert largest_difference(value, expected_value) < 1e-5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype):
    arguments = make_case(dtype=dtype, shapes=((5, 4), (3, 2)), points=30)
    with torch.autocast('cpu', torch.bfloat16):
        actual = grads(ms_deform_attn, arguments)
    wide = [a.double() if a.is_floating_point() else a for a in arguments]
    for value, expected in zip(actual, grads(ms_deform_attn, wide), strict=True):
        assert value.dtype == dtype
        assert largest_difference(value, expected) < 2 * torch.finfo(dtype).eps


def test_half_value_with_float32_locations():
    """As under autocast, where a linear layer computes the value."""
    arguments = make_case(dtype=torch.float32)
    arguments[0] = arguments[0].bfloat16()
    actual = grads(ms_deform_attn, arguments)
    assert [t.dtype for t in actual[:3]] == [torch.bfloat16] * 2 + [torch.float32]


@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf'), 1e30])
def test_points_that_are_not_on_a_map_give_zeros(number):
    arguments = make_case()
    arguments[2][:] = number
    for tensor in grads(ms_deform_attn, arguments):
        assert not tensor.any()


def test_queries_are_computed_in_parts(monkeypatch):
    samples = []
    function = mmcv_module.multi_scale_deformable_attn_pytorch

    def recorded(value, shapes, locations, attention):
        samples.append(attention.numel() * value.shape[3])
        return function(value, shapes, locations, attention)

    monkeypatch.setattr(mmcv_module, 'multi_scale_deformable_attn_pytorch', recorded)
    monkeypatch.setattr(module, 'PART_SIZE', 1000)
    grads(ms_deform_attn, make_case(queries=200))
    assert sum(samples) == 2 * (2 * 200 * 2 * 3 * 2 * 3) and max(samples) <= 1000


def test_levels_in_another_order():
    value, shapes, locations, attention = make_case(shapes=((2, 3), (1, 2)))
    expected = ms_deform_attn(value, shapes, locations, attention)
    swapped = torch.cat([value[:, 6:], value[:, :6]], 1)
    actual = ms_deform_attn(swapped, shapes, locations, attention, torch.tensor([2, 0]))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    'position, change',
    [
        (1, torch.tensor([[3, 4], [1, 1], [2, 2]])),
        (1, torch.tensor([[3, 4], [1, 1], [-2, 1]])),
        (4, torch.tensor([0, 12, 14])),
    ],
)
def test_error_for_levels_that_do_not_fit_the_keys(position, change):
    arguments = [*make_case(), torch.tensor([0, 12, 13])]
    arguments[position] = change
    with pytest.raises(UserError, match='do not fit the 15 keys'):
        ms_deform_attn(*arguments)
