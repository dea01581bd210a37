"""The layers of an RPN as one step, which keeps no hidden map for the backward.

The loss of an RPN looks at few pixels (:mod:`.sparse_gradient`). The hidden map is
computed again in the backward, at these pixels only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sparse_gradient import convolve_at, few_pixels, nonzero_pixels, sparse_gradients
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
        masks = [nonzero_pixels(grad) for grad in grads]
        sparse = [mask for mask in masks if mask is not None]
        all_sparse = len(sparse) == len(masks)
        pixels = few_pixels(torch.stack(sparse).any(0)) if all_sparse else None
        if pixels is None:
            return _dense_gradients(ctx.saved_tensors, grads, ctx.needs_input_grad)
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


def _dense_gradients(
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
    """Apply a 3x3 convolution, by Winograd's algorithm, ReLU, and 1x1 convolutions.

    Args:
        x (Tensor): float32 on a CPU, of shape (B, C, H, W).
        weight (Tensor): Weight of the 3x3 convolution, (hidden, C, 3, 3).
        bias (Tensor): Its bias, (hidden,).
        *predictors (Tensor): Weight, (outputs, hidden, 1, 1), and bias, (outputs,), of
            each 1x1 convolution.

    Returns:
        tuple[Tensor, ...]: Output of each 1x1 convolution, (B, outputs, H, W),
        channels-last.
    """
    return _RPN.apply(x, weight, bias, *predictors)
