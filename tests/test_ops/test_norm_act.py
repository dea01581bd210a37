"""BatchNorm and GELU as one step, compared with the two modules."""

import copy

from mobilevig_det.ops import norm_act as module
from mobilevig_det.ops.norm_act import norm_act

import pytest
import torch
from torch import nn

FORMATS = (torch.contiguous_format, torch.channels_last)


def make_norm(channels, dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, **kwargs).to(dtype)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        if value is not None:
            nn.init.uniform_(value, 0.5, 1.5)
    return norm


def make_map(shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).mul(2).add(3).to(dtype)


class Doubled(nn.GELU):
    def forward(self, x):
        return 2 * super().forward(x)


def results(function, norm, x, grad):
    x = x.clone().requires_grad_()
    out = function(x, norm)
    out.backward(grad)
    return dict(
        out=out.detach(),
        x=x.grad,
        weight=norm.weight.grad,
        bias=norm.bias.grad,
        **dict(norm.named_buffers()),
    )


def plain(x, norm):
    return nn.functional.gelu(norm(x))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('x_format', FORMATS)
@pytest.mark.parametrize('grad_format', FORMATS)
@pytest.mark.parametrize('shape', [(2, 3, 1, 1), (1, 5, 7, 4), (3, 1, 2, 9)])
def test_equals_the_modules(shape, grad_format, x_format, training):
    norm = make_norm(shape[1], torch.float64).train(training)
    x = make_map(shape, torch.float64).contiguous(memory_format=x_format)
    grad = torch.randn_like(x).contiguous(memory_format=grad_format)
    expected = results(plain, copy.deepcopy(norm), x, grad)
    actual = results(lambda x, n: norm_act(x, n, nn.GELU()), norm, x, grad)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_gradcheck():
    norm = make_norm(3, torch.float64)
    x = make_map((2, 3, 3, 2), torch.float64).requires_grad_()

    def function(x, weight, bias):
        return module._BatchNormGELU.apply(
            x, weight, bias, norm.running_mean, norm.running_var, True, 0.1, 1e-5
        )

    assert torch.autograd.gradcheck(function, (x, norm.weight, norm.bias))


def test_under_autocast():
    norm = make_norm(6)
    x = make_map((2, 6, 9, 5), torch.bfloat16)
    grad = torch.randn(x.shape).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        expected = results(plain, copy.deepcopy(norm), x, grad)
        actual = results(lambda x, n: norm_act(x, n, nn.GELU()), norm, x, grad)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        torch.testing.assert_close(actual[name], value, rtol=0.02, atol=0.05, msg=name)


def test_stores_its_input_and_statistics_only():
    kept = []
    x = make_map((2, 4, 8, 6)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t) or t, lambda t: t
    ):
        norm_act(x, make_norm(4), nn.GELU())
    assert [t.data_ptr() for t in kept if t.numel() > 4] == [x.data_ptr()]


def test_inference_is_in_place():
    x = make_map((1, 4, 8, 6))
    expected = nn.functional.gelu(x)
    with torch.no_grad():
        out = norm_act(x, None, nn.GELU())
    assert out.data_ptr() == x.data_ptr()
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    'norm, act',
    [
        (make_norm(4, momentum=None), nn.GELU()),
        (make_norm(4, affine=False), nn.GELU()),
        (make_norm(4, track_running_stats=False), nn.GELU()),
        (nn.GroupNorm(2, 4), nn.GELU()),
        (make_norm(4), nn.GELU('tanh')),
        (make_norm(4), Doubled()),
        (make_norm(4), nn.ReLU()),
        (make_norm(4), None),
        (None, nn.GELU()),
        (None, None),
    ],
)
def test_other_modules_are_called(norm, act):
    x = make_map((2, 4, 3, 5))
    sequence = nn.Sequential(*(copy.deepcopy(m) for m in (norm, act) if m))
    assert torch.equal(norm_act(x, norm, act), sequence(x))


def test_one_value_per_channel_is_refused_in_training():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm_act(torch.rand(1, 4, 1, 1), make_norm(4), nn.GELU())


@pytest.mark.parametrize('hooked', [0, 1])
@pytest.mark.parametrize(
    'register',
    [
        'register_forward_hook',
        'register_forward_pre_hook',
        'register_full_backward_hook',
        'register_full_backward_pre_hook',
    ],
)
def test_hooks_are_called(hooked, register):
    layers, calls = (make_norm(4), nn.GELU()), []
    getattr(layers[hooked], register)(lambda *args: calls.append(args))
    norm_act(make_map((2, 4, 3, 5)).requires_grad_(), *layers).sum().backward()
    assert len(calls) == 1
