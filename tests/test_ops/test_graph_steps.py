"""Graph steps of AGC, DAGC and MGC, compared with the reference implementation and with
their definitions."""

import copy

from mobilevig_det.errors import UserError
from mobilevig_det.ops import cross_max, gated_max, links, thresholded_max
from mobilevig_det.ops.agc import naive_gated_max
from mobilevig_det.ops.dagc import naive_thresholded_max
from mobilevig_det.ops.mgc import naive_cross_max

import naive_graph_steps as naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from siblings import golden
from torch import nn

FORMS = dict(
    mobilevigv2=(cross_max, naive_cross_max),
    greedyvig=(thresholded_max, naive_thresholded_max),
    adaptvig=(gated_max, naive_gated_max),
)
FAMILIES = list(FORMS)
GRAPHS = sorted({key.split('/')[2] for key in golden() if key.startswith('graph/m')})
shapes = st.tuples(*(st.integers(1, most) for most in (2, 6, 9, 9)))
formats = st.sampled_from((torch.contiguous_format, torch.channels_last))
dtypes = st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16))


def random_map(shape, seed, levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(0, levels, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.double)


def arguments(family, channels, dtype=torch.float32):
    """Return the arguments between the map and the stride."""
    return [torch.tensor(-0.8 * channels, dtype=dtype)] if family == 'adaptvig' else []


def assert_near(found, expected, tolerance=1e-5):
    error = (found - expected).abs().max()
    assert error <= tolerance * expected.abs().max(), error


@pytest.mark.parametrize('form', [0, 1], ids=['ours', 'naive'])
@pytest.mark.parametrize('graph', GRAPHS)
@pytest.mark.parametrize('family', FAMILIES)
def test_equals_the_reference_implementation(family, graph, form):
    data = golden()
    function, stride = FORMS[family][form], int(graph.split('_K')[1])
    for dtype in (torch.float32, torch.float64):
        x, grad, *expected = (
            torch.from_numpy(np.asarray(data[key])).to(dtype)
            for key in (
                f'graph/{graph}/x',
                f'graph/{graph}/g',
                f'graph/{family}/{graph}/x_j',
                f'graph/{family}/{graph}/grad_x',
            )
        )
        inputs = [x]
        if family == 'adaptvig':
            more = (data[f'graph/{family}/{graph}/{name}'] for name in ('t', 'grad_t'))
            temperature, to_temperature = (
                torch.from_numpy(np.asarray(value)).to(dtype) for value in more
            )
            inputs.append(temperature)
            expected.append(to_temperature)
        for tensor in inputs:
            tensor.requires_grad_()
        out = function(*inputs, stride)
        grads = torch.autograd.grad(
            out, inputs, grad, allow_unused=True, materialize_grads=True
        )
        for found, want in zip((out, *grads), expected):
            assert_near(found, want)
        with torch.no_grad():
            assert torch.equal(function(*inputs, stride), out)


@settings(max_examples=25, deadline=None)
@given(
    shape=shapes,
    stride=st.integers(1, 11),
    dtype=dtypes,
    memory_format=formats,
    levels=st.sampled_from((None, 1, 3)),
    part_size=st.sampled_from((1, 2**18)),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize('family', FAMILIES)
def test_equals_the_definition(
    family, shape, stride, dtype, memory_format, levels, part_size, seed
):
    x = random_map(shape, seed, levels).to(dtype)
    x = x.contiguous(memory_format=memory_format)
    kept, more = x.clone(), arguments(family, shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, 'PART_SIZE', part_size)
        recorded = FORMS[family][0](x.clone().requires_grad_(), *more, stride)
        plain = FORMS[family][0](x, *more, stride)
        link_by_link = FORMS[family][1](x, *more, stride)
    assert torch.equal(x, kept)
    if family == 'greedyvig':
        expected, margin = naive.thresholded_max(x, stride)
        near = (margin <= 1e-5)[:, None].expand(shape)
    else:
        expected = getattr(naive, FORMS[family][0].__name__)(x, *more, stride)
        near = torch.zeros(shape, dtype=torch.bool)
    exact = family != 'adaptvig'
    for out in (plain, recorded.detach(), link_by_link):
        assert out.dtype == dtype
        out, want = out[~near].double(), expected[~near].double()
        if exact:
            assert torch.equal(out, want)
        else:
            rounding = max(4 * torch.finfo(dtype).eps, 1e-6)
            assert (out - want).abs().max() <= rounding * max(want.abs().max(), 1e-3)
    for out in (plain, recorded):
        assert out.is_contiguous(memory_format=memory_format)


@settings(max_examples=15, deadline=None)
@given(
    shape=shapes,
    stride=st.integers(1, 9),
    memory_format=formats,
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize('family', FAMILIES)
def test_gradient_equals_the_definition(family, shape, stride, memory_format, seed):
    """As autograd computes it in float64."""
    x = random_map(shape, seed).contiguous(memory_format=memory_format)
    grad, grads = random_map(shape, seed + 1), []
    for function in FORMS[family]:
        inputs = [x.clone(), *arguments(family, shape[1], torch.double)]
        for tensor in inputs:
            tensor.requires_grad_()
        out = function(*inputs, stride)
        grads.append(
            torch.autograd.grad(
                out, inputs, grad, allow_unused=True, materialize_grads=True
            )
        )
    for found, want in zip(*grads):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('family', FAMILIES)
def test_gradcheck(family):
    for size, stride in (((3, 4), 2), ((1, 5), 1)):
        inputs = [random_map((1, 3, *size), 3), *arguments(family, 3, torch.double)]
        for tensor in inputs:
            tensor.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda *args, k=stride: FORMS[family][0](*args, k), inputs
        )


@pytest.mark.parametrize('family', FAMILIES)
def test_gradient_in_half_precision(family):
    x = random_map((2, 8, 6, 5), 0)
    for dtype in (torch.bfloat16, torch.float16):
        grads = []
        for kind in (dtype, torch.double):
            y = x.to(dtype).to(kind).requires_grad_()
            out = FORMS[family][0](y, *arguments(family, 8), 2)
            (grad,) = torch.autograd.grad(out.double().square().sum(), y)
            assert grad.dtype == kind and grad.isfinite().all()
            grads.append(grad.double())
        if family == 'mobilevigv2':  # of the others a near tie may turn
            assert_near(*grads, 0.05)


@pytest.mark.parametrize('family', FAMILIES)
def test_all_pixels_equal(family):
    x = torch.full((2, 3, 5, 4), 0.7, requires_grad=True)
    out = FORMS[family][0](x, *arguments(family, 3), 2)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert not out.any() and not grad.any()


@pytest.mark.parametrize('family', FAMILIES)
def test_nan_spreads_to_joined_pixels(family):
    """Where it was, and where it is joined to; GreedyViG's threshold, which is then
    NaN, admits nothing."""
    x = torch.randn(2, 3, 5, 4)
    x[0, 1, 1, 2] = float('nan')
    more = arguments(family, 3)
    for y in (x, x.clone().requires_grad_()):
        out = FORMS[family][0](y, *more, 2)
        assert out[0, 1, 1, 2].isnan()
        assert out[1].isfinite().all()
        assert torch.equal(out[1:], FORMS[family][0](y[1:], *more, 2))
        if family == 'greedyvig':
            assert out[0].isnan().sum() == 1 and not out[0].nan_to_num().any()
        else:
            assert out[0].isnan().sum() > 1


@pytest.mark.parametrize('family', FAMILIES)
def test_memory_for_the_backward(family):
    x = torch.rand(1, 8, 24, 31, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        FORMS[family][0](x, *arguments(family, 8), 2)
    pixels = 24 * 31
    assert sum(kept) == 8 * pixels + (
        # x itself, the temperature, and 4 + 4 shifts' distances
        x.nbytes + 4 + 8 * 4 * pixels if family == 'adaptvig' else 0
    )


def test_more_than_255_links():
    x = random_map((1, 2, 3, 300), 0).requires_grad_()
    out, want = (f(x, 1) for f in FORMS['greedyvig'])
    assert torch.equal(out, want)
    grads = (torch.autograd.grad(y.square().sum(), x)[0] for y in (out, want))
    torch.testing.assert_close(*grads)


class Step(nn.Module):
    def __init__(self, family):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.conv = FORMS[family][0], nn.Conv2d(3, 4, 1)
        self.more = nn.ParameterList(arguments(family, 4))

    def forward(self, x):
        return self.function(self.conv(x), *self.more, 2)


@pytest.mark.parametrize('family', FAMILIES)
def test_compiled_traced_and_exported_equal_the_original(family):
    model, x = Step(family), torch.randn(2, 3, 6, 5)
    compiled = torch.compile(
        copy.deepcopy(model), fullgraph=True, backend='aot_eager', dynamic=False
    )
    for step in (model, compiled):
        step(x).square().sum().backward()
    for found, want in zip(compiled.parameters(), model.parameters()):
        torch.testing.assert_close(found.grad, want.grad)
    expected = model(x)
    torch.testing.assert_close(torch.jit.trace(model.eval(), x)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@pytest.mark.parametrize('family', FAMILIES)
def test_export_with_dynamic_size_is_refused(family):
    size = {2: torch.export.Dim('H', min=2), 3: torch.export.Dim('W', min=2)}
    with pytest.raises(UserError, match='depend on the size'):
        torch.export.export(
            Step(family), (torch.randn(1, 3, 6, 5),), dynamic_shapes=(size,)
        )


@pytest.mark.parametrize('family', FAMILIES)
def test_under_autocast(family):
    model, x = Step(family), torch.randn(2, 3, 6, 5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
