"""BatchNorm and GELU as one step that keeps one map for the backward.

On their own the two keep their inputs, two maps of one size, and the
convolution that follows keeps a third. The input of the GELU is quickly made
again from that of the norm.
"""

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import is_traced


def norm_act(x: Tensor, norm: nn.Module | None, act: nn.Module | None) -> Tensor:
    """``act(norm(x))``, where either may be None; may overwrite ``x``.

    On CPUs a GELU is computed in the memory of its input if no gradient is
    recorded, and else together with a plain BatchNorm before it. Only there:
    it was measured nowhere else, and to a compiler or an exporter the plain
    modules say more. Modules with hooks are called as they are.
    """
    gelu = type(act) is nn.GELU and act.approximate == 'none'
    compiling = getattr(torch.compiler, 'is_compiling', bool)  # torch >= 2.2
    if (
        gelu
        and x.device.type == 'cpu'
        and not is_traced()
        and not compiling()
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
        ):  # else the norm itself objects
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            return _BatchNormGELU.apply(
                x,
                norm.weight,
                norm.bias,
                norm.running_mean,
                norm.running_var,
                norm.training,
                norm.momentum,
                norm.eps,
            )
    if norm is not None:
        x = norm(x)
    return x if act is None else act(x)


def has_hooks(module: nn.Module | None) -> bool:
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
        # The running statistics (a variance) count in eval mode alone.
        grads = torch.ops.aten.native_batch_norm_backward(
            grad,
            x,
            weight,
            mean,
            invstd**-2 - ctx.eps,
            mean,
            invstd,
            ctx.training,
            ctx.eps,
            [True] * 3,
        )
        return (*grads, *[None] * 5)
