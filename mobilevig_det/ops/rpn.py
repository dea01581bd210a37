"""An RPN's layers as one step, which keeps no map for the backward.

Its loss looks at few pixels (:mod:`.sparse_gradient`). What lies between the layers is
computed again at those alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sparse_gradient import convolve_at, few_pixels, sparse_gradients, with_gradient
from .windows import pixel_rows
from .winograd import winograd_conv3x3


def _layers(
    x: Tensor, weight: Tensor, bias: Tensor, *predictors: Tensor
) -> tuple[Tensor, ...]:
    hidden = winograd_conv3x3(x, weight, bias).relu_()
    pairs = zip(predictors[::2], predictors[1::2])
    return tuple(F.conv2d(hidden, w, b) for w, b in pairs)


class _RPN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return _layers(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        there = [with_gradient(grad) for grad in grads]
        some_have = [t for t in there if t is not None]
        maybe_few = len(some_have) == len(there)
        pixels = few_pixels(torch.stack(some_have).any(0)) if maybe_few else None
        if pixels is None:
            return _dense(ctx.saved_tensors, grads, ctx.needs_input_grad)
        x, weight, bias, *predictors = ctx.saved_tensors
        hidden = convolve_at(x, weight, bias, pixels).relu_()
        of_hidden = torch.zeros_like(hidden)
        of_predictors: list[Tensor] = []
        for grad, predictor in zip(grads, predictors[::2]):
            some = pixel_rows(grad)[pixels]
            of_hidden.addmm_(some, predictor.flatten(1))
            of_predictors += (some.T @ hidden).view_as(predictor), some.sum(0)
        of_hidden = of_hidden.where(hidden > 0, 0)
        of_layer = sparse_gradients(x, weight, of_hidden, pixels, ctx.needs_input_grad)
        return (*of_layer, *of_predictors)


def _dense(
    inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    inputs = tuple(t.detach().requires_grad_(n) for t, n in zip(inputs, needed))
    with torch.enable_grad():
        outs = _layers(*inputs)
    found = iter(
        torch.autograd.grad(outs, [t for t in inputs if t.requires_grad], grads)
    )
    return tuple(next(found) if n else None for n in needed)


def rpn_layers(
    x: Tensor, weight: Tensor, bias: Tensor, *predictors: Tensor
) -> tuple[Tensor, ...]:
    """A 3x3 convolution, by Winograd's algorithm, ReLU, and 1x1 convolutions of that.

    Args:
        x (Tensor): float32 on a CPU, (B, C, H, W).
        weight (Tensor): (hidden, C, 3, 3).
        bias (Tensor): (hidden, ).
        *predictors (Tensor): For each 1x1 convolution its weight, (outputs, hidden, 1,
            1), and its bias, (outputs, ).

    Returns:
        tuple[Tensor, ...]: Of each, (B, outputs, H, W), channels-last.
    """
    return _RPN.apply(x, weight, bias, *predictors)
