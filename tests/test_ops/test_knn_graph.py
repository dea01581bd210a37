"""Graph step of Pyramid ViG, compared with the authors' code and their form of it."""

import copy
import re

from mobilevig_det.errors import UserError
from mobilevig_det.ops import knn_graph, knn_max
from mobilevig_det.ops.knn_graph import POOLING, naive_knn_max, position_tables

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramidvig import authors_knn_max, golden, relative_positions
from torch import nn

CASES = sorted({key.rpartition('/')[0] for key in golden() if key.startswith('graph/')})


def nodes_of(x, stage):
    return F.avg_pool2d(x, POOLING[stage]) if POOLING[stage] > 1 else x


def at_once(x, stage, dilation):
    return naive_knn_max(x, nodes_of(x, stage), stage, dilation)


def random_map(shape, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.double).to(dtype)


@pytest.mark.parametrize('function', [knn_max, at_once])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('case', CASES)
def test_equals_the_authors_code(case, dtype, function):
    stage, dilation = map(int, re.search(r'stage(\d)_d(\d)', case).groups())
    x, grad = (
        torch.from_numpy(golden()[f'{case}/{name}']).to(dtype) for name in ('x', 'g')
    )
    neighbours = knn_graph._search(x, nodes_of(x, stage), stage, dilation, True)[1]
    want = golden()[f'{case}/idx']
    np.testing.assert_array_equal(neighbours.flatten(1, 2).numpy(), want)
    x.requires_grad_()
    out = function(x, stage, dilation)
    results = (out, *torch.autograd.grad(out, x, grad))
    for found, name in zip(results, ('x_j', 'grad_x')):
        want = golden()[f'{case}/{name}']
        error = np.abs(found.detach().numpy() - want).max()
        assert error <= 1e-5 * np.abs(want).max()
    with torch.no_grad():
        torch.testing.assert_close(function(x, stage, dilation), out)


@pytest.mark.parametrize('size', [None, (20, 31), (9, 17)])
@pytest.mark.parametrize('stage', range(4))
def test_position_tables_are_the_resized_matrix(stage, size):
    grid = 56 >> stage
    rows, columns = position_tables(12, stage, *(size or (grid, grid)))
    found = (rows[:, None] + columns).reshape(-1, rows.shape[1])
    want = relative_positions(12, stage, *(size or ()))[0].numpy()
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    stage=st.integers(0, 3),
    shape=st.tuples(
        st.integers(1, 2), st.sampled_from((4, 8)), *[st.integers(4, 20)] * 2
    ),
    dilation=st.integers(1, 5),
    memory_format=st.sampled_from((torch.contiguous_format, torch.channels_last)),
    chunk_size=st.sampled_from((400, 5000, 2**20)),
    seed=st.integers(0, 2**31),
)
def test_equals_the_authors_form(
    stage, shape, dilation, memory_format, chunk_size, seed
):
    """Of any size, in float64, and so does the gradient."""
    x = random_map(shape, seed).contiguous(memory_format=memory_format)
    grad, results = random_map(shape, seed + 1), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(knn_graph.CHUNK_SIZE, 'cpu', chunk_size)
        for function in (knn_max, at_once, authors_knn_max):
            y = x.clone().requires_grad_()
            out = function(y, stage, dilation)
            results.append([out.detach(), *torch.autograd.grad(out, y, grad)])
        results.append([knn_max(x, stage, dilation), results[0][1]])
    assert results[0][0].is_contiguous(memory_format=memory_format)
    for found in (*results[:2], results[3]):
        for a, b in zip(found, results[2]):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_memory_is_bounded():
    """No operation's result has more elements than a chunk or the map itself."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    def undispatched(operator):
        return getattr(operator, '_init_fn', operator)

    x = random_map((1, 8, 100, 152), dtype=torch.float32)
    grad, nodes = x.clone(), nodes_of(x, 0)
    with Watch():
        out, *kept = undispatched(knn_graph._search)(x, nodes, 0, 1, True)
        undispatched(knn_graph._spread)(grad, *kept, *nodes.shape[-2:])
    assert x.numel() <= largest <= 2**20 < 100 * 152 * 25 * 38 / 10
    assert torch.equal(out, knn_max(x, 0, 1))
    assert sum(t.nbytes for t in kept) == x.numel() + 100 * 152 * 9 * 4


def test_gradcheck():
    for stage, shape in ((1, (1, 4, 4, 9)), (2, (1, 4, 4, 3))):
        x = random_map(shape).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, s=stage: knn_max(x, s, 1), x)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """The neighbours are found in float32; differences are rounded once."""
    x = random_map((2, 8, 12, 9), dtype=dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    out, want = knn_max(x, 2, 2), knn_max(wide, 2, 2)
    assert out.dtype == dtype and torch.equal(out, want.to(dtype))
    (grad,) = torch.autograd.grad(out.sum(), x)
    (want,) = torch.autograd.grad(want.sum(), wide)
    torch.testing.assert_close(grad.float(), want, rtol=0.02, atol=0.02)


def test_zero_and_equal_pixels():
    for value in (0.0, 0.5):
        x = torch.full((2, 4, 8, 12), value, requires_grad=True)
        out = knn_max(x, 0, 1)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert not out.any() and grad.isfinite().all() and abs(grad.sum()) < 1e-3


class Step(nn.Module):
    def __init__(self, stage):
        super().__init__()
        torch.manual_seed(0)
        self.stage, self.conv = stage, nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return knn_max(self.conv(x), self.stage, 2)


@pytest.mark.parametrize('stage', [0, 2])
def test_compiled_traced_and_exported_equal_the_original(stage):
    model, x = Step(stage), torch.randn(2, 3, 24, 28)
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


def test_export_with_dynamic_size_is_refused():
    size = {2: torch.export.Dim('H', min=8), 3: torch.export.Dim('W', min=8)}
    with pytest.raises(UserError, match='exported for one size'):
        torch.export.export(
            Step(2), (torch.randn(1, 3, 24, 28),), dynamic_shapes=(size,)
        )
