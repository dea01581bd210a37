"""The graph step of SVGA, compared with its definition."""

import copy

from mobilevig_det.ops import svga
from mobilevig_det.ops.svga import max_relative

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_graph_steps import naive_max_relative
from torch import nn

sizes = st.integers(1, 11)
formats = st.sampled_from((torch.contiguous_format, torch.channels_last))


def random_map(seed, shape, dtype=torch.float32, levels=None):
    """Return a map without ties, or one of ``levels`` different values."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        x = torch.randint(-levels, levels, shape, generator=generator)
        return x.to(dtype)
    x = torch.randperm(torch.Size(shape).numel(), generator=generator)
    return (x.to(torch.float64).view(shape) / 8 - 3).to(dtype)


def rolled(x, stride):
    """Compute the definition in a differentiable form."""
    differences = [x - x]
    for dim in (2, 3):
        differences += [
            x - torch.roll(x, i, dim) for i in range(stride, x.shape[dim], stride)
        ]
    return torch.stack(differences).amax(0)


class Step(nn.Module):
    """A convolution, whose weights need a gradient, then the graph step."""

    def __init__(self, stride=2):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)
        self.stride = stride

    def forward(self, x):
        return max_relative(self.conv(x), self.stride)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), sizes, sizes),
    stride=st.integers(1, 13),
    dtype=st.sampled_from(
        (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    ),
    memory_format=formats,
    levels=st.sampled_from((None, 3)),
    part_size=st.sampled_from((1, 2**18)),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition(
    shape, stride, dtype, memory_format, levels, part_size, seed
):
    x = random_map(seed, shape, dtype, levels)
    x = x.contiguous(memory_format=memory_format)
    expected = naive_max_relative(x, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svga, 'PART_SIZE', part_size)
        plain = max_relative(x, stride)
        recorded = max_relative(x.clone().requires_grad_(), stride)
        traced = x - torch.minimum(
            svga.window_min(x, stride, -2), svga.window_min(x, stride, -1)
        )
    for out in (plain, recorded.detach(), traced):
        assert out.dtype == dtype
        assert torch.equal(out, expected)
    for out in (plain, recorded):
        assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('part_size', [1, 2**18])
@pytest.mark.parametrize(
    'layout',
    [
        lambda x: x.mT.contiguous().mT,
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.stack([x, -x], -1)[..., 0],
        lambda x: x[:, :, :1, :1].expand_as(x),
        # A dim of size 1 may have any stride.
        lambda x: torch.empty_strided(
            (1, 1, *x.shape[2:]), (99, 7, x.shape[3], 1)
        ).copy_(x[:1, :1]),
    ],
)
def test_input_with_any_strides(layout, part_size, monkeypatch):
    monkeypatch.setattr(svga, 'PART_SIZE', part_size)
    for size in ((1, 8), (6, 8), (5, 4), (8, 7)):
        x = layout(random_map(0, (2, 3, *size)))
        kept = x.clone()
        for stride in (1, 2, 4):
            expected = naive_max_relative(x, stride)
            recorded = max_relative(x.detach().requires_grad_(), stride)
            assert torch.equal(max_relative(x, stride), expected)
            assert torch.equal(recorded, expected)
        assert torch.equal(x, kept)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), sizes, sizes),
    stride=st.integers(1, 13),
    x_format=formats,
    grad_format=formats,
    seed=st.integers(0, 2**31),
)
def test_gradient_equals_the_definition(shape, stride, x_format, grad_format, seed):
    x = random_map(seed, shape, torch.float64)
    x = x.contiguous(memory_format=x_format).requires_grad_()
    grad = torch.randn(shape, dtype=torch.float64)
    grad = grad.contiguous(memory_format=grad_format)
    expected = torch.autograd.grad(rolled(x, stride), x, grad)[0]
    actual = torch.autograd.grad(max_relative(x, stride), x, grad)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('shape', [(0, 3, 5, 4), (0, 3, 4, 7), (2, 0, 5, 4)])
def test_empty_batch(shape):
    x = torch.empty(shape, requires_grad=True)
    out = max_relative(x)
    assert out.shape == max_relative(x.detach()).shape == shape
    out.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize(
    'shape, stride',
    [((1, 1), 1), ((5, 4), 2), ((4, 6), 2), ((7, 3), 3), ((6, 5), 4), ((2, 9), 8)],
)
def test_gradcheck(shape, stride):
    x = random_map(3, (2, 2, *shape), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: max_relative(t, stride), x)


def test_more_pixels_than_int16_holds():
    x = random_map(0, (1, 1, 182, 181)).requires_grad_()
    out = max_relative(x, 60)
    assert out.grad_fn.saved_tensors[0].dtype == torch.int32
    expected = rolled(x, 60)
    assert torch.equal(out, expected)
    grad = torch.randint(-9, 9, x.shape).float()
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (out, expected)))


def chosen(values, stride, position):
    """Return the position of the minimum of ``values`` by the rule for ties."""
    size = len(values)
    members = [(position - i) % size for i in range(0, size, stride)]
    if size % stride:
        return min(members, key=lambda i: values[i])
    members.sort()
    while len(members) > 1:
        keep = -(-len(members) // 2)
        members = [
            min(pair, key=lambda i: values[i])
            for pair in zip(members[:keep], members[-keep:])
        ]
    return members[0]


@pytest.mark.parametrize('size', [(6, 7), (8, 4), (5, 9)])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_of_equal_neighbours_one_gets_the_gradient(size, stride):
    height, width = size
    x = random_map(1, (1, 1, *size), torch.float64, levels=2)
    grad = torch.randint(1, 9, x.shape).double()
    expected = grad.clone()[0, 0]
    for h in range(height):
        for w in range(width):
            column = (chosen(x[0, 0, :, w].tolist(), stride, h), w)
            row = (h, chosen(x[0, 0, h].tolist(), stride, w))
            smallest = min(column, row, key=lambda at: float(x[0, 0][at]))
            expected[smallest] -= grad[0, 0, h, w]
    x.requires_grad_()
    (actual,) = torch.autograd.grad(max_relative(x, stride), x, grad)
    assert torch.equal(actual[0, 0], expected)


def test_nan_spreads_to_joined_pixels():
    x = torch.zeros(1, 1, 5, 4)
    x[0, 0, 1, 1] = float('nan')
    expected = naive_max_relative(x, 2).isnan()
    assert 1 < expected.sum() < x.numel()
    for y in (x, x.clone().requires_grad_()):
        assert torch.equal(max_relative(y, 2).isnan(), expected)


def saved_bytes(function, x):
    """Return bytes and number of the tensors that autograd stores."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        function(x)
    return sum(kept), len(kept)


@pytest.mark.parametrize('stride', [1, 2, 3])
def test_stores_one_small_map_for_any_size(stride):
    for size in ((5, 6), (13, 21), (50, 67)):
        x = torch.rand(2, 3, *size, requires_grad=True)
        assert saved_bytes(lambda t: max_relative(t, stride), x) == (x.numel() * 2, 1)


def test_checkpointing_and_autocast():
    model, x = Step(), random_map(5, (2, 3, 5, 6))
    grads = []
    for run in (
        model,
        lambda t: torch.utils.checkpoint.checkpoint(model, t, use_reentrant=False),
    ):
        model.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = run(x)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        grads.append(model.conv.weight.grad.clone())
    assert torch.equal(*grads)


def test_compiles_to_one_graph():
    model = Step()
    compiled = torch.compile(
        copy.deepcopy(model), fullgraph=True, dynamic=True, backend='aot_eager'
    )
    for size in ((5, 6), (8, 3)):
        x = torch.randn(2, 3, *size)
        for step in (model, compiled):
            step.zero_grad()
            step(x).square().sum().backward()
        torch.testing.assert_close(compiled.conv.weight.grad, model.conv.weight.grad)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))


def test_exported_with_dynamic_size():
    size = {
        2: torch.export.Dim('H', min=2, max=512),
        3: torch.export.Dim('W', min=2, max=512),
    }
    model = Step()
    exported = torch.export.export(
        model, (torch.randn(1, 3, 5, 6),), dynamic_shapes=(size,)
    )
    for size in ((5, 6), (9, 4), (2, 2), (17, 64)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(exported.module()(x), model(x))


def in_onnx(model, path, dynamic, dynamo):
    """Export for the size 5x6, or any size; return the operators and a session."""
    pytest.importorskip('onnxscript')
    onnx = pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    if dynamo:
        options = dict(dynamic_shapes=(any_size if dynamic else None,), verbose=False)
    else:
        options = dict(dynamic_axes={'x': [2, 3]} if dynamic else None)
    torch.onnx.export(
        model,
        (torch.randn(1, 3, 5, 6),),
        path,
        input_names=['x'],
        dynamo=dynamo,
        **options,
    )
    operators = {node.op_type for node in onnx.load(path).graph.node}
    return operators, onnxruntime.InferenceSession(path)


# Of a fixed size without a neighbour, and with several.
@pytest.mark.parametrize('stride', [2, 5])
@pytest.mark.parametrize('dynamo', [False, True])
@pytest.mark.parametrize('dynamic', [False, True])
def test_onnx_equals_pytorch(dynamic, dynamo, stride, tmp_path):
    model = Step(stride).eval()
    operators, session = in_onnx(model, tmp_path / 'step.onnx', dynamic, dynamo)
    if dynamo and not dynamic:  # what phones' accelerators have
        assert operators <= {'Conv', 'Slice', 'Concat', 'Min', 'Sub'}
    for shape in ((5, 6), (9, 4), (17, 31))[: 3 if dynamic else 1]:
        x = torch.randn(1, 3, *shape)
        (out,) = session.run(None, {'x': x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), model(x).detach())


def test_traced_module_equals_the_original():
    model, x = Step().eval(), torch.randn(1, 3, 5, 6)
    traced = torch.jit.trace(model, x)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert not any('mobilevig' in kind or 'Python' in kind for kind in kinds)
    assert torch.equal(traced(2 * x), model(2 * x))
