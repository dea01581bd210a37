"""3x3 convolutions by Winograd's algorithm, against plain sums in float64."""

import copy

from mobilevig_det.ops import winograd
from mobilevig_det.ops.channels_last import ChannelsLastConv2d
from mobilevig_det.ops.winograd import WinogradConv2d, use_winograd, winograd_conv3x3

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

SHAPES = [
    (1, 1, 1, 1), (2, 3, 1, 9), (3, 2, 5, 4), (1, 4, 8, 12), (0, 2, 4, 4),
    (50, 2, 14, 14), (1, 2, 130, 81),
]  # fmt: skip


def check(shape, outs, bias=True, channels_last=False):
    torch.manual_seed(0)
    x, w = torch.randn(shape), torch.randn(outs, shape[1], 3, 3)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    inputs = [x, w, torch.randn(outs)][: 2 + bias]
    inputs = [t.requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out, want = winograd_conv3x3(*inputs), F.conv2d(*exact, padding=1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(want)
    found = torch.autograd.grad(out, inputs, grad.float())
    wanted = torch.autograd.grad(want, exact, grad)
    for a, b in zip((out, *found), (want, *wanted)):
        assert a.shape == b.shape and a.dtype == torch.float32
        if a.numel():
            # Of the largest: a sum of many may itself be next to nothing.
            assert (a - b).abs().max() <= 2e-5 * max(b.abs().max(), 1)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_outputs_and_gradients(shape, channels_last):
    check(shape, 3, channels_last=channels_last)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*(st.integers(1, most) for most in (3, 5, 23, 23))),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([1, 3, 640]),
)
def test_any_shape(shape, outs, bias, piece):
    """Also in pieces that cut through an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, 'PIECE', piece)
        check(shape, outs, bias)


@pytest.mark.parametrize('sides', [(8, 8), (9, 8)])
def test_outputs_may_be_written_to(sides):
    """As mmcv's ConvModule does."""
    x, w = torch.randn(1, 2, *sides), torch.randn(3, 2, 3, 3, requires_grad=True)
    winograd_conv3x3(x, w).relu_().sum().backward()
    found, w.grad = w.grad, None
    F.conv2d(x, w, padding=1).relu().sum().backward()
    assert (found - w.grad).abs().max() < 1e-4


def test_only_the_gradients_that_are_asked_for():
    x, w = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3, requires_grad=True)
    winograd_conv3x3(x, w).sum().backward()
    assert x.grad is None and w.grad is not None


def test_rounding():
    """About as much as the plain sums do: in float32 5 times, and far below TF32."""
    torch.manual_seed(0)
    x, w = torch.randn(1, 256, 24, 24).relu(), torch.randn(256, 256, 3, 3) / 48
    want = F.conv2d(x.double(), w.double(), padding=1)
    error = (winograd_conv3x3(x, w) - want).abs().max() / want.abs().max()
    assert error < 5e-6


class Net(nn.Module):
    def __init__(self, n=96):
        super().__init__()
        self.a = nn.Conv2d(n, n, 3, padding=1)
        self.others = nn.ModuleList(
            [
                nn.Conv2d(n, n, 1),
                nn.Conv2d(n, n, 3),
                nn.Conv2d(n, n, 3, 2, 1),
                nn.Conv2d(n, n, 3, padding=2, dilation=2),
                nn.Conv2d(n, n, 3, padding=1, groups=n),
                nn.Conv2d(n, n, 3, padding=1, padding_mode='reflect'),
                nn.Conv2d(n, 8, 3, padding=1),
            ]
        )

    def forward(self, x):
        return self.a(x)


def test_which_convolutions_are_turned():
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert use_winograd(model) == 1 and use_winograd(model) == 0
    assert type(model.a) is WinogradConv2d
    for other in model.others:
        assert type(other) is (ChannelsLastConv2d if other.groups == 1 else nn.Conv2d)
    other = nn.Conv2d(8, 8, 1)
    assert use_winograd(other) == 0 and type(other) is nn.Conv2d
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert type(copy.deepcopy(model).a) is WinogradConv2d


def test_where_it_is_the_plain_convolution(monkeypatch):
    def refuse(*args):
        raise AssertionError

    model, plain = Net().eval(), Net().eval()
    plain.load_state_dict(model.state_dict())
    use_winograd(model)
    x = torch.randn(1, 96, 32, 32)
    assert (model(x) - plain(x)).abs().max() < 1e-5
    monkeypatch.setattr(winograd, 'winograd_conv3x3', refuse)
    with pytest.raises(AssertionError):
        model(x)
    assert torch.equal(model(x[..., :8, :8]), plain(x[..., :8, :8]))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model(x), plain(x))
    traced = torch.jit.trace(model, x, check_trace=False)
    assert torch.equal(traced(x), plain(x))
    exported = torch.export.export(model, (x,)).module()
    assert torch.equal(exported(x), plain(x))
    assert torch.equal(model.double()(x.double()), plain.double()(x.double()))
