"""Batch normalization over the batches of all processes, as mmcv's SyncBatchNorm.

It replaces the class's methods where mmcv has no compiled extension: its own need a
process group, and operators that exist for GPUs only.

Source: Batch Normalization (ICML 2015, arXiv 1502.03167), with the mean and variance of
all processes (MegDet, CVPR 2018, arXiv 1711.07240).
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .bilinear import wide_dtype


def init_sync_batch_norm(
    module: Any,
    num_features: int,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
    group: Any = None,
    stats_mode: str = 'default',
) -> None:
    """Replace ``SyncBatchNorm.__init__``.

    The group is looked up in the forward: it may be initialized later.
    """
    if stats_mode not in ('default', 'N'):
        raise ValueError(f"stats_mode must be 'default' or 'N', but is {stats_mode!r}.")
    nn.Module.__init__(module)
    # The parameters and buffers are those of BatchNorm.
    like = nn.BatchNorm1d(num_features, eps, momentum, affine, track_running_stats)
    for name in ('num_features', 'eps', 'momentum', 'affine', 'track_running_stats'):
        setattr(module, name, getattr(like, name))
    for name in ('weight', 'bias'):
        module.register_parameter(name, getattr(like, name))
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        module.register_buffer(name, getattr(like, name))
    module.group, module.stats_mode = group, stats_mode
    module.group_size = _group_size(group)
    module.reset_parameters()


def forward_sync_batch_norm(module: Any, input: Tensor) -> Tensor:
    """Replace ``SyncBatchNorm.forward``.

    In one process it is :func:`torch.nn.functional.batch_norm`. With a process group,
    PyTorch's SyncBatchNorm computes tensors on GPUs, where every pixel has the same
    weight. Elsewhere the means of the processes are averaged, weighted by their batch
    sizes if ``stats_mode`` is 'N', and gradients flow through the averages; a process
    with an empty batch doesn't count. If all are empty, the running statistics stay as
    they are.
    """
    if input.dim() < 2:
        raise ValueError(f'expected at least 2D input, got {input.dim()}D input')
    momentum = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats:
        module.num_batches_tracked += 1
        if module.momentum is None:  # a cumulative average
            momentum = 1.0 / float(module.num_batches_tracked)
    module.group_size = _group_size(module.group)
    use_batch = module.training or not module.track_running_stats
    ranks = module.group_size if use_batch else 1
    statistics = module.running_mean, module.running_var
    parameters = module.weight, module.bias
    settings: tuple[Any, ...] = use_batch, momentum, module.eps
    if not use_batch or ranks == 1 and input.numel() > input.shape[1]:
        return F.batch_norm(input, *statistics, *parameters, *settings)
    if ranks > 1 and input.is_cuda:
        from torch.nn.modules._functions import SyncBatchNorm

        group = module.group or dist.group.WORLD
        settings = module.eps, momentum, group, ranks
        return SyncBatchNorm.apply(input, *parameters, *statistics, *settings)
    x = input.to(wide_dtype(input.dtype))[..., None].flatten(2)
    settings = momentum, module.eps, module.group, ranks, module.stats_mode == 'N'
    arguments: tuple[Any, ...] = *statistics, *parameters, *settings
    with torch.autocast(x.device.type, enabled=False):
        out = _average_over_processes(x, *arguments)
    return out.to(input.dtype).view(input.shape)


def _group_size(group: Any) -> int:
    initialized = dist.is_available() and dist.is_initialized()
    return dist.get_world_size(group) if initialized else 1


class _AllReduce(torch.autograd.Function):
    """Sum of the tensors of all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        tensor = tensor.clone()
        dist.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.apply(grad, ctx.group), None


def _average_over_processes(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None, bias: Tensor | None, momentum: float, eps: float, group: Any,
    ranks: int, by_batch_size: bool,
) -> Tensor:  # fmt: skip
    """Normalize x (B, C, pixels), where B may differ between the processes."""

    def total(tensor: Tensor) -> Tensor:
        return tensor if ranks == 1 else _AllReduce.apply(tensor, group)

    count = len(x) * x.shape[2]
    own = len(x) if by_batch_size else min(count, 1)
    all_own, all_counts = total(x.new_tensor([own, count])).unbind()
    share = own / all_own.clamp(min=1) / max(count, 1)
    mean = total(x.sum((0, 2)) * share)
    centered = x - mean[:, None]
    var = total(centered.square().sum((0, 2)) * share)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            step = momentum * all_counts.clamp(max=1)
            unbiased = var * (all_counts / (all_counts - 1).clamp(min=1))
            running_mean += step * (mean - running_mean)
            running_var += step * (unbiased - running_var)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    out = centered * scale[:, None]
    return out if bias is None else out + bias[:, None]
