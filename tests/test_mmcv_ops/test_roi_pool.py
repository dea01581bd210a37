"""RoIPool and deformable RoI pooling through mmcv's functions and layers, compared with
the definitions."""

import importlib

from mobilevig_det.errors import UserError
from mobilevig_det.mmcv_ops import roi_pool as module

import numpy as np
import pytest
import torch
from mmcv.ops import DeformRoIPoolPack, ModulatedDeformRoIPoolPack, RoIPool
from naive_ops import deform_roi_pool as naive_deform
from naive_ops import roi_pool as naive
from torch.autograd import gradcheck

POOL = importlib.import_module('mmcv.ops.roi_pool')
DEFORM = importlib.import_module('mmcv.ops.deform_roi_pool')
INF, NAN = float('inf'), float('nan')
ROIS = torch.tensor(
    [
        [0, 1.3, 2.2, 9.1, 13.7],
        [1, 0, 0, 15, 11],
        [1, 3, 3, 3, 3],  # empty
        [0, 5.5, 4.4, 5.6, 11],  # thin
        [0, -30, -20, -9, -8],  # outside
        [1, 100, 3, 200, 9],
        [0, -7, -5, 40, 30],  # larger than the map
        [0, 9, 9, 2, 3],  # of negative size
        [1, 9, 2, 2, 8],
        [0, NAN, 2, 3, 4],
        [1, 1, 2, INF, 4],
        [0, -1e6, -1e6, 1e6, 1e6],
    ],
    dtype=torch.float64,
)


@pytest.fixture(autouse=True)
def on_our_operators(monkeypatch):
    for each in (POOL, DEFORM):
        monkeypatch.setattr(each, 'ext_module', module)


@pytest.fixture(params=['at once', 'in parts'])
def parts(request, monkeypatch):
    if request.param == 'in parts':
        monkeypatch.setattr(module, 'CPU_PART_SIZE', 1)


def features(size=(6, 8), channels=3, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(2, channels, *size, dtype=torch.float64).to(dtype)


def offsets(number, size, factor=3.0):
    torch.manual_seed(1)
    return torch.randn(number, 2, *size, dtype=torch.float64) * factor


def grads(function, *tensors):
    """Output and gradients, for an output gradient of random integers."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    random = torch.Generator().manual_seed(2)
    out.backward(torch.randint(-3, 4, out.shape, generator=random).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


# --- RoIPool -----------------------------------------------------------------


@pytest.mark.parametrize('shape', [(6, 8), (1, 1), (1, 5)])
@pytest.mark.parametrize('size', [(2, 3), (1, 1), (7, 7)])
def test_roi_pool_equals_the_definition(shape, size, parts):
    x = features(shape).round(decimals=1)  # some are equal
    out, grad = grads(lambda x: POOL.roi_pool(x, ROIS, size, 0.5), x)
    expected, chosen = naive(x.numpy(), ROIS.numpy(), size, 0.5)
    assert torch.equal(out, torch.from_numpy(expected))
    random = torch.Generator().manual_seed(2)
    of_out = torch.randint(-3, 4, out.shape, generator=random)
    expected = torch.zeros_like(x)
    for at in np.ndindex(*out.shape):
        if chosen[at] is not None:
            expected[(int(ROIS[at[0], 0]), at[1], *chosen[at])] += of_out[at]
    assert torch.equal(grad, expected)


def test_roi_pool_gradcheck():
    x = features().requires_grad_()
    assert gradcheck(lambda x: POOL.roi_pool(x, ROIS, (2, 3), 0.5), [x])


def test_nan_is_never_the_maximum():
    x = features()
    x[0, 0, ::2], x[1, 1] = NAN, NAN
    out, grad = grads(lambda x: POOL.roi_pool(x, ROIS, (2, 2), 0.5), x)
    expected, _ = naive(x.numpy(), ROIS.numpy(), (2, 2), 0.5)
    assert torch.equal(out, torch.from_numpy(expected))
    assert not grad[x.isnan()].any() and grad[0, 0].any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_roi_pool_in_other_dtypes(dtype):
    x = features(dtype=dtype)
    out, grad = grads(lambda x: POOL.roi_pool(x, ROIS.float(), (2, 2), 0.5), x)
    expected = grads(lambda x: POOL.roi_pool(x, ROIS, (2, 2), 0.5), x.double())
    for a, b in zip((out, grad), expected):
        assert a.dtype == dtype and torch.equal(a, b.to(dtype))


# --- Deformable RoI pooling --------------------------------------------------


@pytest.mark.parametrize('with_offset', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('shape', [(6, 8), (1, 1)])
def test_deform_roi_pool_equals_the_definition(shape, ratio, with_offset, parts):
    x, size = features(shape), (2, 3)
    rois = ROIS[:-1]  # the last one has too many samples for the loop
    offset = offsets(len(rois), size) if with_offset else None
    out = DEFORM.deform_roi_pool(x, rois, offset, size, 0.5, ratio, 0.2)
    by_loop = naive_deform(
        x.numpy(),
        rois.numpy(),
        offset.numpy() if with_offset else None,
        size,
        0.5,
        ratio,
        0.2,
    )
    torch.testing.assert_close(out, torch.from_numpy(by_loop), rtol=0, atol=1e-12)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool_gradcheck(ratio, parts):
    rois = ROIS[[0, 1, 3, 6, 7, 9]]
    inputs = features(channels=2), offsets(len(rois), (2, 2), 0.5)

    def function(x, offset):
        return DEFORM.deform_roi_pool(x, rois, offset, (2, 2), 0.5, ratio, 0.3)

    leaves = [t.requires_grad_() for t in inputs]
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradcheck(lambda x: function(x, None), leaves[:1], fast_mode=True)


def test_offset_has_the_slope_to_the_right_at_the_centre_of_a_pixel():
    x = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0]).view(1, 1, 1, 5).expand(1, 1, 3, 5)
    rois = torch.tensor([[0, 2.0, 1, 3, 2]])  # its sample is at (2, 1), which is 5

    def function(offset):
        return DEFORM.deform_roi_pool(x, rois, offset, (1, 1), 1.0, 1, 0.5)

    offset = torch.zeros(1, 2, 1, 1, requires_grad=True)
    out = function(offset)
    out.sum().backward()
    assert out.item() == 5 and offset.grad.flatten().tolist() == [0.5 * (7 - 5), 0]


def test_deform_roi_pool_of_a_huge_roi_is_that_of_few_samples():
    """Of a million samples for each bin, only those on the map are computed."""
    rois = torch.tensor([[0.0, -2000, -2000, 2000, 2000]])
    out = DEFORM.deform_roi_pool(features(dtype=torch.float32), rois, None, (1, 1))
    expected = features().float()[0].sum((1, 2)) / 4000**2
    torch.testing.assert_close(out.flatten(), expected, rtol=0.2, atol=1e-6)
    out = DEFORM.deform_roi_pool(features(), ROIS[-1:], offsets(1, (2, 2)), (2, 2))
    assert out.isfinite().all()


def test_nan_pixels_reach_only_bins_that_read_them():
    x, size = features((12, 12)), (2, 2)
    x[:, :, 6, 6] = NAN
    rois = torch.tensor([[0, 1.0, 1, 5, 5], [0, 5, 5, 9, 9], [0, 0, 0, 11, 3.0]])
    rois = rois.double()
    offset = torch.zeros(3, 2, *size, dtype=torch.float64)
    out, grad, of_offset = grads(
        lambda x, offset: DEFORM.deform_roi_pool(x, rois, offset, size), x, offset
    )
    by_loop = naive_deform(x.numpy(), rois.numpy(), None, size, 1, 0, 0)
    torch.testing.assert_close(out, torch.from_numpy(by_loop), equal_nan=True)
    assert out[1].isnan().any() and out[[0, 2]].isfinite().all()
    assert grad.isfinite().all() and of_offset[[0, 2]].isfinite().all()


@pytest.mark.parametrize('value', [NAN, INF, -INF, 1e30])
def test_offsets_that_leave_the_map_give_zeros(value):
    offset = torch.full((1, 2, 2, 2), value, dtype=torch.float64)
    for tensor in grads(
        lambda x, offset: DEFORM.deform_roi_pool(x, ROIS[:1], offset, (2, 2)),
        features(),
        offset,
    ):
        assert not tensor.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_summed_in_float32(dtype):
    rois, x, offset = ROIS[:4].float(), features(dtype=dtype), offsets(4, (2, 2), 0.5)

    def function(x, offset):
        return DEFORM.deform_roi_pool(x, rois, offset, (2, 2), 0.5, 2)

    actual = grads(function, x, offset.to(dtype))
    expected = grads(function, x.float(), offset.to(dtype).float())
    for a, b in zip(actual, expected):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype))


# --- Both --------------------------------------------------------------------


@pytest.mark.parametrize('function', [POOL.roi_pool, DEFORM.deform_roi_pool])
def test_no_rois(function):
    x = features().requires_grad_()
    offset = [] if function is POOL.roi_pool else [None]
    out = function(x, ROIS[:0], *offset, (2, 3))
    assert out.shape == (0, 3, 2, 3)
    out.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize('function', [POOL.roi_pool, DEFORM.deform_roi_pool])
def test_errors_name_what_does_not_fit(function):
    offset = [] if function is POOL.roi_pool else [None]
    rois = ROIS[:1].clone()
    rois[0, 0] = 2
    with pytest.raises(UserError, match='batch indices go from 2 to 2'):
        function(features(), rois, *offset, (2, 2))
    if offset:
        with pytest.raises(UserError, match=r'offset must .* \(1, 2, 2, 2\), not'):
            function(features(), ROIS[:1], torch.ones(1, 2, 3, 3), (2, 2))


@pytest.mark.parametrize(
    'make',
    [
        lambda: RoIPool((2, 3), 0.5),
        lambda: DeformRoIPoolPack((2, 3), 4, 8, 0.5, 2, 2.0),
        lambda: ModulatedDeformRoIPoolPack((2, 3), 4, 8, 0.5, 0, 2.0),
    ],
    ids=['RoIPool', 'DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'],
)
def test_layers_of_mmcv_train_under_autocast(make):
    torch.manual_seed(0)
    layer = make()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = features(channels=4, dtype=torch.float32).requires_grad_()
    expected = layer(x, ROIS[:8].float())
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(x, ROIS[:8].float())
    assert out.shape == (8, 4, 2, 3)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    out.sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.any()
