"""All methods of mmcv's classes that are replaced where mmcv has no compiled extension.

Operators are replaced by their names in ``mmcv._ext`` (mmcv_ext.py). The methods here
fail before they call one. mmcv_stand_in.py, which an mmcv with a compiled extension
never imports, installs them; each gets mmcv's own method as its first argument.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .carafe import carafe_naive_backward
from .sync_batch_norm import sync_batch_norm


def carafe_naive_backward_on_any_device(
    mmcv_method: Any, ctx: Any, grad_output: Tensor
) -> tuple:
    """Replace ``CARAFENaiveFunction.backward``, which refuses tensors on CPUs."""
    features, masks = ctx.saved_tensors
    of_features, of_masks = torch.zeros_like(features), torch.zeros_like(masks)
    carafe_naive_backward(
        grad_output,
        features,
        masks,
        of_features,
        of_masks,
        ctx.kernel_size,
        ctx.group_size,
        ctx.scale_factor,
    )
    return of_features, of_masks, None, None, None


def roi_align_without_torchvision(
    mmcv_method: Any, module: Any, input: Tensor, rois: Tensor
) -> Tensor:
    """Replace ``RoIAlign.forward``, which imports torchvision if ``use_torchvision``.

    Where torchvision is missing, its average is computed by the package's operator.
    """
    from mmcv.ops import roi_align

    from .mmcv_ext import torchvision_ops

    if not module.use_torchvision or torchvision_ops() is not None:
        return mmcv_method(module, input, rois)
    return roi_align(
        input,
        rois,
        module.output_size,
        module.spatial_scale,
        module.sampling_ratio,
        'avg',
        module.aligned,
    )


def init_sync_batch_norm(
    mmcv_method: Any,
    module: Any,
    num_features: int,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
    group: Any = None,
    stats_mode: str = 'default',
) -> None:
    """Replace ``SyncBatchNorm.__init__``, which needs a process group.

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


def forward_sync_batch_norm(mmcv_method: Any, module: Any, input: Tensor) -> Tensor:
    """Replace ``SyncBatchNorm.forward``, whose operators exist for GPUs only."""
    if input.dim() < 2:
        raise ValueError(f'expected at least 2D input, got {input.dim()}D input')
    factor = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats:
        module.num_batches_tracked += 1
        if module.momentum is None:  # a cumulative average
            factor = 1.0 / float(module.num_batches_tracked)
    module.group_size = _group_size(module.group)
    return sync_batch_norm(
        input,
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        module.training or not module.track_running_stats,
        factor,
        module.eps,
        module.group,
        module.stats_mode == 'N',
    )


def _group_size(group: Any) -> int:
    initialized = dist.is_available() and dist.is_initialized()
    return dist.get_world_size(group) if initialized else 1


REPLACEMENTS: dict[str, Callable[..., Any]] = {
    'CARAFENaiveFunction.backward': carafe_naive_backward_on_any_device,
    'RoIAlign.forward': roi_align_without_torchvision,
    'SyncBatchNorm.__init__': init_sync_batch_norm,
    'SyncBatchNorm.forward': forward_sync_batch_norm,
}
