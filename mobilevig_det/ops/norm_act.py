"""BatchNorm and GELU as one step that keeps one map for the backward.

As two steps each keeps its input, two maps of the same size, and the convolution
that follows keeps a third. The input of the GELU is cheaply recomputed from the
input of the norm.
"""

import torch
import torch.fx
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import is_traced_or_compiled


def norm_act(x: Tensor, norm: nn.Module | None, act: nn.Module | None) -> Tensor:
    """Compute ``act(norm(x))``; may overwrite ``x``.

    On CPUs a GELU is computed in place if no gradient is recorded, and otherwise
    together with a plain BatchNorm before it. Elsewhere, where it was not measured,
    for compilers and exporters, and if a module has hooks, the modules are called one
    after the other.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W).
        norm (nn.Module, optional): Norm layer.
        act (nn.Module, optional): Activation.

    Returns:
        Tensor: Of the same shape and dtype as ``x``.
    """
    gelu = type(act) is nn.GELU and act.approximate == 'none'
    if (
        gelu
        and not isinstance(x, torch.fx.Proxy)
        and x.device.type == 'cpu'
        and not is_traced_or_compiled()
        and not has_hooks(norm)
        and not has_hooks(act)
    ):
        if not torch.is_grad_enabled():
            return torch.ops.aten.gelu_(x if norm is None else norm(x))
        if (
            type(norm) is nn.BatchNorm2d
            and norm.affine
            and norm.track_running_stats
            and norm.momentum is not None
            and x.numel() > x.shape[1]
        ):  # otherwise the norm raises its own error
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            statistics = norm.running_mean, norm.running_var
            settings = norm.training, norm.momentum, norm.eps
            return _BatchNormGELU.apply(
                x, norm.weight, norm.bias, *statistics, *settings
            )
    if norm is not None:
        x = norm(x)
    return x if act is None else act(x)


def has_hooks(module: nn.Module | None) -> bool:
    """Return whether a module has forward or backward hooks."""
    return module is not None and any(
        getattr(module, name, None)
        for name in (
            '_forward_hooks',
            '_forward_pre_hooks',
            '_backward_hooks',
            '_backward_pre_hooks',
        )
    )


class _BatchNormGELU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        out, mean, invstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, training, momentum, eps
        )
        if not training:
            mean, invstd = running_mean.clone(), (running_var + eps).rsqrt()
        ctx.training, ctx.eps = training, eps
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        return torch.ops.aten.gelu_(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, invstd = ctx.saved_tensors
        scale = weight * invstd
        normed = torch.addcmul(
            (bias - mean * scale).view(-1, 1, 1), x, scale.view(-1, 1, 1)
        ).to(x.dtype)
        grad = torch.ops.aten.gelu_backward.grad_input(grad, normed, grad_input=normed)
        # The running statistics (a variance) are read in eval mode only.
        statistics = mean, invstd**-2 - ctx.eps, mean, invstd
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, *statistics, ctx.training, ctx.eps, [True] * 3
        )
        return (*grads, *[None] * 5)
