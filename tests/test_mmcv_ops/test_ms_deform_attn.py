"""Multi-scale deformable attention: the definition, and mmcv's slow form."""

import importlib
import itertools
import types

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import bilinear as pieces
from mobilevig_det.mmcv_ops.ms_deform_attn import ms_deform_attn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import largest_difference
from naive_ops import bilinear

# By its path, for the package may have the function under this name.
module = importlib.import_module('mobilevig_det.mmcv_ops.ms_deform_attn')
F64 = torch.float64


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
    batch=st.integers(0, 2),
    queries=st.integers(0, 3),
    heads=st.integers(1, 2),
    channels=st.integers(1, 3),
    shapes=st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=3
    ),
    points=st.integers(0, 2),
    seed=st.integers(0, 9),
    part=st.sampled_from([1, 100, 2**19]),
)
def test_equals_the_definition(part, **shape):
    arguments = make_case(**shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, 'CPU_PART_SIZE', part)
        actual = grads(ms_deform_attn, arguments)
    torch.testing.assert_close(actual[0], naive(*arguments))
    with pytest.MonkeyPatch.context() as patch:
        for each in (module, pieces):
            patch.setattr(each, 'wants_plain', lambda: True)
        plain = grads(ms_deform_attn, arguments)  # gradients by autograd alone
    torch.testing.assert_close(actual, plain)


def test_gradcheck():
    value, shapes, locations, attention = make_case()
    for tensor in (value, locations, attention):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, x, a: ms_deform_attn(v, shapes, x, a), (value, locations, attention)
    )


def as_mmcv(monkeypatch):
    """mmcv's function for GPUs, which calls its extension, on ours."""
    attn = importlib.import_module('mmcv.ops.multi_scale_deform_attn')
    functions = types.SimpleNamespace(
        ms_deform_attn_forward=module.ms_deform_attn_forward,
        ms_deform_attn_backward=module.ms_deform_attn_backward,
    )
    monkeypatch.setattr(attn, 'ext_module', functions)

    def function(value, shapes, locations, attention):
        start = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        apply = attn.MultiScaleDeformableAttnFunction.apply
        return apply(value, shapes, start, locations, attention, 64)

    return function, attn.multi_scale_deformable_attn_pytorch


@pytest.mark.parametrize('dtype', [torch.float32, F64])
def test_equals_mmcv(dtype, monkeypatch):
    sizes = ((13, 20), (7, 10), (4, 5), (1, 2))
    arguments = make_case(queries=40, shapes=sizes, channels=8, points=4, dtype=dtype)
    function, slow = as_mmcv(monkeypatch)
    expected = grads(slow, arguments)
    for each in (function, ms_deform_attn):
        for value, expected_value in zip(grads(each, arguments), expected, strict=True):
            assert value.dtype == dtype
            assert largest_difference(value, expected_value) < 1e-5


@pytest.mark.parametrize('by_mmcv', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype, by_mmcv, monkeypatch):
    arguments = make_case(dtype=dtype, shapes=((5, 4), (3, 2)), points=30)
    function = as_mmcv(monkeypatch)[0] if by_mmcv else ms_deform_attn
    with torch.autocast('cpu', torch.bfloat16):
        actual = grads(function, arguments)
    wide = [a.double() if a.is_floating_point() else a for a in arguments]
    for value, expected in zip(actual, grads(ms_deform_attn, wide), strict=True):
        assert value.dtype == dtype
        assert largest_difference(value, expected) < 2 * torch.finfo(dtype).eps


def test_only_the_value_is_half():
    """As under autocast, where a linear layer makes the value."""
    arguments = make_case(dtype=torch.float32)
    arguments[0] = arguments[0].bfloat16()
    actual = grads(ms_deform_attn, arguments)
    assert [t.dtype for t in actual[:3]] == [torch.bfloat16] * 2 + [torch.float32]


@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf'), 1e30])
def test_points_that_are_nowhere(number):
    arguments = make_case()
    arguments[2][:] = number
    for tensor in grads(ms_deform_attn, arguments):
        assert not tensor.any()


def test_memory_is_bounded(monkeypatch):
    read = []

    def recorded(rows, index, weight):
        read.append(index.numel() * (rows.shape[1] if rows.requires_grad else 1))
        return pieces.sum_rows(rows, index, weight)

    monkeypatch.setattr(module, 'sum_rows', recorded)
    monkeypatch.setattr(pieces, 'CPU_PART_SIZE', 1000)
    ms_deform_attn(*make_case(queries=200))
    assert sum(read) == 2 * 200 * 2 * 3 * 2 * 4 and max(read) <= 1000


def test_levels_that_start_elsewhere():
    value, shapes, locations, attention = make_case(shapes=((2, 3), (1, 2)))
    expected = ms_deform_attn(value, shapes, locations, attention)
    swapped = torch.cat([value[:, 6:], value[:, :6]], 1)
    actual = ms_deform_attn(swapped, shapes, locations, attention, torch.tensor([2, 0]))
    torch.testing.assert_close(actual, expected)


def test_compiled_and_exported():
    arguments = make_case()

    class Model(torch.nn.Module):
        def forward(self, *inputs):
            return ms_deform_attn(*inputs)

    expected = grads(ms_deform_attn, arguments)
    compiled = torch.compile(Model(), fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(grads(compiled, arguments), expected)
    program = torch.export.export(Model(), tuple(arguments))
    names = {str(n.target) for n in program.graph.nodes if n.op == 'call_function'}
    assert all(n.startswith(('aten.', '<built-in')) for n in names), names
    torch.testing.assert_close(program.module()(*arguments), expected[0])


@pytest.mark.parametrize(
    'position, value, message',
    [
        (0, torch.zeros(2, 15, 6), r'value must be of shape \(B, keys, heads'),
        (0, torch.zeros(2, 15, 2, 3).long(), 'value .* floating'),
        (0, torch.zeros(2, 14, 2, 3), 'spatial_shapes .* do not fit the 14 keys'),
        (1, torch.tensor([3, 4]), r'spatial_shapes must be integers of shape \(levels'),
        (1, torch.ones(3, 2), 'spatial_shapes must be integers'),
        (1, torch.tensor([[3, 4], [1, 1], [-2, 1]]), 'spatial_shapes .* do not fit'),
        (
            2,
            torch.zeros(2, 3, 2, 3, 2),
            r'sampling_locations must .* \(2, queries, 2, 3',
        ),
        (2, torch.zeros(2, 3, 1, 3, 2, 2), 'sampling_locations'),
        (3, torch.zeros(2, 3, 2, 3, 1), r'attention_weights must .*\(2, 3, 2, 3, 2\)'),
        (4, torch.zeros(2).long(), r'level_start_index must have the shape \(3,\)'),
        (4, torch.tensor([0, 12, 14]), 'level_start_index .* do not fit the 15 keys'),
    ],
)
def test_names_the_argument_that_does_not_fit(position, value, message):
    arguments = [*make_case(), torch.tensor([0, 12, 13])]
    arguments[position] = value
    with pytest.raises(UserError, match=message):
        ms_deform_attn(*arguments)


def test_more_keys_than_there_are_read_zeros(monkeypatch):
    """Where the numbers aren't looked at, as on a GPU, nothing crashes."""
    value, shapes, locations, attention = make_case(shapes=((2, 2),))
    monkeypatch.setattr(module, 'wants_plain', lambda: True)
    actual = ms_deform_attn(value[:, :2], shapes, locations, attention)
    value[:, 2:] = 0
    torch.testing.assert_close(
        actual, ms_deform_attn(value, shapes, locations, attention)
    )
