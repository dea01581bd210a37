"""RoIAlign, compared with compiled mmcv and with a loop from its definition."""

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import roi_align as module
from mobilevig_det.mmcv_ops import roi_samples
from mobilevig_det.mmcv_ops.mmcv_ext import roi_align_backward, roi_align_forward

import naive_ops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv_reference import compiled_operator, load_cases, needs_compiled_mmcv

MODES = ('max', 'avg')


class RoIAlign(torch.autograd.Function):
    """Call the operators as ``mmcv.ops.roi_align`` does."""

    @staticmethod
    def forward(ctx, x, rois, size, scale=1.0, ratio=0, mode='avg', aligned=True):
        ctx.shape, ctx.kwargs = (
            x.shape,
            dict(
                aligned_height=size[0],
                aligned_width=size[1],
                spatial_scale=scale,
                sampling_ratio=ratio,
                pool_mode=MODES.index(mode),
                aligned=aligned,
            ),
        )
        out, at_y, at_x = (x.new_zeros(len(rois), x.shape[1], *size) for _ in range(3))
        roi_align_forward(x, rois, out, at_y, at_x, **ctx.kwargs)
        ctx.save_for_backward(rois, at_y, at_x)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = grad.new_zeros(ctx.shape)
        roi_align_backward(grad.contiguous(), *ctx.saved_tensors, grad_x, **ctx.kwargs)
        return grad_x, *[None] * 6


roi_align = RoIAlign.apply


def close(a, b, bound=1e-5, least=0.0):
    """Equal to so much of the largest expected, or of ``least``: of what is
    summed, where the sum may be nothing but its rounding."""
    a, b = (torch.as_tensor(t).double() for t in (a, b))
    assert a.shape == b.shape
    if a.numel():
        assert (a - b).abs().max() <= bound * b.abs().max().clamp(min=least)


def test_equals_recorded_results_of_compiled_mmcv():
    cases = load_cases('mmcv_ops.npz', 'roi_align')
    assert len(cases) >= 36
    for case in cases.values():
        args = case['args'].tolist()
        size, mode = (int(args[4]), int(args[5])), 'max' if args[8] else 'avg'
        x = case['x'].requires_grad_()
        out = roi_align(
            x, case['rois'], size, args[9], int(args[6]), mode, bool(args[7])
        )
        close(out.detach(), case['y'])
        close(torch.autograd.grad(out, x, case['g'])[0], case['gx'])


@st.composite
def cases(draw):
    side = st.integers(1, 9)
    shape = draw(st.tuples(st.integers(1, 2), st.sampled_from([1, 17]), side, side))
    coordinate = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 0.5, 3.0, -1.0])
    corner = st.tuples(coordinate, coordinate, coordinate, coordinate)
    batch = st.integers(0, shape[0] - 1)
    rois = draw(st.lists(st.tuples(batch, corner), max_size=4))
    rois = np.array([(b, *c) for b, c in rois], np.float32).reshape(-1, 5)
    return dict(
        shape=shape,
        rois=rois,
        size=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        scale=draw(st.sampled_from([1.0, 0.25])),
        ratio=draw(st.integers(0, 3)),
        mode=draw(st.sampled_from(MODES)),
        aligned=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@settings(deadline=None)
@given(cases())
def test_equals_the_definition(case):
    generator = torch.Generator().manual_seed(case['seed'])
    x = torch.randn(case['shape'], generator=generator, dtype=torch.float64)
    rois = torch.from_numpy(case['rois']).double()
    args = [case[key] for key in ('size', 'scale', 'ratio', 'mode', 'aligned')]
    expected, weights = naive_ops.roi_align(x.numpy(), rois.numpy(), *args)
    x.requires_grad_()
    out = roi_align(x, rois, *args)
    close(out.detach(), expected, 1e-9, least=1)
    if not len(rois):
        return
    g = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grad = np.zeros(x.shape)
    for n, roi in enumerate(rois):
        grad[int(roi[0])] += np.einsum('cpq,cpqhw->chw', g[n], weights[n])
    close(torch.autograd.grad(out, x, g)[0], grad, 1e-9, least=1)


@needs_compiled_mmcv
@settings(deadline=None)
@given(cases())
def test_equals_compiled_mmcv(case):
    generator = torch.Generator().manual_seed(case['seed'])
    x = torch.randn(case['shape'], generator=generator, requires_grad=True)
    # It asserts or crashes at negative sizes.
    rois = torch.from_numpy(case['rois'])
    rois = torch.cat(
        [
            rois[:, :1],
            rois[:, 1:3].minimum(rois[:, 3:]),
            rois[:, 1:3].maximum(rois[:, 3:]),
        ],
        1,
    )
    if case['mode'] == 'max':
        # Its backward takes a sample at -1, which counts, for none at all.
        rois[:, 1:] += 0.0137
    args = [case[key] for key in ('size', 'scale', 'ratio', 'mode', 'aligned')]
    results = []
    for whose in ('ours', 'compiled'):
        with pytest.MonkeyPatch.context() as patch:
            if whose == 'compiled':
                for name in ('roi_align_forward', 'roi_align_backward'):
                    patch.setitem(globals(), name, compiled_operator(name))
            out = roi_align(x, rois, *args)
            g = torch.linspace(-1, 1, out.numel()).view(out.shape)
            grad = torch.autograd.grad(out, x, g)[0] if len(rois) else x.detach()
            results.append((out.detach(), grad))
    (out, grad), (expected, expected_grad) = results
    close(out, expected, least=1)
    close(grad, expected_grad, least=1)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('channels', [2, 16])
def test_gradcheck(mode, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[1, 0.3, 0.2, 3.4, 4.1], [0, 1, 1, 2, 2]], dtype=torch.float64)
    args = rois, (2, 2), 1.0, 2, mode, True
    # Each forward is exact; in single steps the largest sample stays the largest.
    assert torch.autograd.gradcheck(lambda x: roi_align(x, *args), x, eps=1e-7)


def many(number, channels=32):
    torch.manual_seed(1)
    corners = torch.rand(number, 2) * 80 - 10
    sides = torch.rand(number, 2) ** 3 * 60
    images = torch.randint(2, (number, 1))
    rois = torch.cat([images, corners, corners + sides], 1)
    return torch.randn(2, channels, 19, 23), rois


@pytest.mark.parametrize('channels', [3, 32])
@pytest.mark.parametrize('mode', MODES)
def test_result_is_independent_of_the_piece_sizes(monkeypatch, channels, mode):
    x, rois = many(60, channels)
    x.requires_grad_()
    out = roi_align(x, rois, (3, 2), 0.3, 0, mode)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    for name in ('FORWARD_PIECE', 'BACKWARD_PIECE', 'MAX_PIECE'):
        monkeypatch.setattr(module, name, 100)
    monkeypatch.setattr(module, 'CHANNELS', 5)
    again = roi_align(x, rois, (3, 2), 0.3, 0, mode)
    close(again.detach(), out.detach(), 1e-6)
    close(torch.autograd.grad(again.square().sum(), x)[0], grad, 1e-5)


@pytest.mark.parametrize('channels', [3, 32])
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype, mode, channels):
    x, rois = many(20, channels)
    x, rois = x.to(dtype), rois.to(dtype)
    halves, floats = x.clone().requires_grad_(), x.float().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out = roi_align(halves, rois, (3, 2), 0.25, 0, mode)
    expected = roi_align(floats, rois.float(), (3, 2), 0.25, 0, mode)
    assert out.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    g = torch.randn(out.shape).to(dtype)
    (grad,) = torch.autograd.grad(out, halves, g)
    (expected,) = torch.autograd.grad(expected, floats, g.float())
    assert torch.equal(grad, expected.to(dtype))


def test_any_memory_format():
    x, rois = many(20)
    expected = roi_align(x, rois, (3, 2), 0.25)
    for layout in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        close(roi_align(layout, rois, (3, 2), 0.25), expected, 1e-6)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('aligned', [True, False])
def test_invalid_rois_give_zeros(mode, aligned):
    """The results of the other RoIs don't change."""
    x, rois = many(4)
    x.requires_grad_()
    args = (3, 2), 0.25, 0, mode, aligned
    expected = roi_align(x, rois, *args)
    (grad,) = torch.autograd.grad(expected.sum(), x)
    bad = torch.tensor([
        [0, np.nan, 0, 5, 5], [0, 0, 0, np.inf, 9], [1, -np.inf, 0, np.inf, 9],
    ])  # fmt: skip
    if aligned:
        bad = torch.cat([bad, torch.tensor([[0, 5.0, 5, 4, 9]])])
    out = roi_align(x, torch.cat([bad, rois]), *args)
    assert not out[: len(bad)].any()
    assert torch.equal(out[len(bad) :], expected)
    close(torch.autograd.grad(out.sum(), x)[0], grad, 1e-6)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shape', [(1, 1), (2, 5), (4, 3)])
def test_samples_outside_of_the_map_are_left_out(mode, shape):
    """Of a bin with more samples than fit on the map."""
    x = torch.randn(1, 2, *shape, dtype=torch.float64)
    rois = torch.tensor(
        [[0.0, -15, -13, 21, 30], [0, -50.3, -1, 3, 2], [0, 0.2, -90, 1, 1.5]]
    ).double()
    for size in ((1, 1), (2, 3)):
        args = size, 1.0, 0, mode, True
        expected, _ = naive_ops.roi_align(x.numpy(), rois.numpy(), *args)
        close(roi_align(x, rois, *args), expected, 1e-9)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('channels', [3, 32])
def test_rois_far_larger_than_the_map(mode, channels):
    """The mean over samples nearly all of which are outside, without making
    them: a grid of 10 million by 10 million would not end."""
    x = torch.ones(1, channels, 4, 6)
    rois = torch.tensor(
        [[0, -1e7, -1e7, 1e7, 1e7], [0, 0, 0, 1e30, 1e30], [0, -3e38, 0, 3e38, 3]]
    )
    out = roi_align(x, rois, (2, 2), 1.0, 0, mode)
    assert out.isfinite().all() and out.max() <= 1
    if mode == 'max':
        assert out[0].max() == 1


def test_empty_inputs():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    out = roi_align(x, torch.zeros(0, 5), (7, 7))
    assert out.shape == (0, 3, 7, 7)
    assert not torch.autograd.grad(out.sum(), x)[0].any()
    empty = roi_align(torch.zeros(0, 3, 4, 4), torch.zeros(0, 5), (7, 7))
    assert empty.shape == (0, 3, 7, 7)


@pytest.mark.parametrize(
    'x, rois, message',
    [
        ((1, 3, 4, 4), [[1.0, 0, 0, 2, 2]], 'batch indices go from 1 to 1.*1 images'),
        ((1, 3, 4, 4), [[-1.0, 0, 0, 2, 2]], 'batch indices go from -1 to -1'),
        ((0, 3, 4, 4), [[0.0, 0, 0, 2, 2]], '0 images'),
        ((1, 3, 4, 4), [[0.0, 0, 2, 2]], r'rois must be of shape \(N, 5\)'),
    ],
)
def test_errors_name_the_argument_that_does_not_fit(x, rois, message):
    for channels in (x[1], 32):
        with pytest.raises(UserError, match=message):
            roi_align(torch.zeros(x[0], channels, *x[2:]), torch.tensor(rois), (2, 2))


def test_compilers_see_one_operator():
    x, rois = many(5)

    def pool(x, rois):
        out = x.new_zeros(rois.shape[0], x.shape[1], 3, 3)
        nothing = x.new_zeros(0)
        torch.ops.mobilevig_det.roi_align_forward(
            x, rois, out, nothing, nothing, 3, 3, 0.25, 0, 1, True
        )
        return out

    expected = roi_align(x, rois, (3, 3), 0.25)
    compiled = torch.compile(pool, fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(x, rois), expected)

    class Pool(torch.nn.Module):
        def forward(self, x, rois):
            return pool(x, rois)

    batch = torch.export.Dim('batch', min=2, max=99)
    exported = torch.export.export(Pool(), (x, rois), dynamic_shapes=(None, {0: batch}))
    assert torch.equal(exported.module()(x, rois), expected)
    assert module.roi_align_forward._qualname == 'mobilevig_det::roi_align_forward'


TAPS = st.integers(1, 300)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TAPS, TAPS), max_size=60), st.sampled_from([1, 2**9, 2**18]))
def test_rois_are_split_into_parts_of_similar_shapes(taps, limit):
    """Each RoI is in one part; a part of several is neither too large nor, beyond
    small ones, padded to half as much again."""
    taps = torch.tensor(taps, dtype=torch.float).view(-1, 2)
    parts = [part.tolist() for part in roi_samples.alike(*taps.T, limit)]
    assert sorted(sum(parts, [])) == list(range(len(taps)))
    for part in parts:
        padded = len(part) * taps[part].amax(0).prod()
        assert len(part) == 1 or padded <= limit
        assert padded <= 1.5 * taps[part].prod(1).sum() + 2**10


def test_tall_and_wide_rois_are_in_different_parts():
    taps = torch.tensor([[2.0, 100], [100, 2], [2, 90], [90, 2]])
    parts = roi_samples.alike(*taps.T, 10**6)
    assert sorted(sorted(part.tolist()) for part in parts) == [[0, 2], [1, 3]]
