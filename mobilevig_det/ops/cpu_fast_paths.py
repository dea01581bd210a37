"""Layers that are faster on CPUs, and the function that gives them to a model.

- 3x3 convolutions with many channels take Winograd's algorithm (:mod:`.winograd`).
- The other convolutions and RoIAlign keep their maps channels-last, the layout of
  Winograd's results: each change of layout copies a map, and in the backward its
  gradient.
- The layers of an RPN are one step with sparse gradients (:func:`rpn_layers`).

Each layer is a subclass that gives the same results as its base class, up to
rounding, and is its base class on GPUs, in half precision, under autocast and for
compilers and exporters.

This module imports MMDetection's models, which takes seconds.
"""

import warnings
from typing import TypeGuard

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from mmdet.models import RPNHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..custom_op import is_traced_or_compiled
from ..mmcv_ops.roi_align import roi_align_backward, roi_align_forward
from .norm_act import has_hooks
from .sparse_gradient import (
    convolve_at,
    few_pixels,
    nonzero_pixels,
    pixel_rows,
    sparse_gradients,
    window_count,
)
from .winograd import OUT, winograd_conv3x3

# Measured: smaller convolutions don't gain from Winograd's algorithm.
FEWEST_CHANNELS = 96
FEWEST_TILES = 48


def apply_cpu_fast_paths(model: nn.Module) -> int:
    """Give a model's layers the faster forms for CPUs.

    Layers change their class in place. Weights, their names, hooks and gradients
    stay as they are. A model without a convolution that gains is left alone, and
    so is a model to which this was applied before.

    Args:
        model (nn.Module): Any model.

    Returns:
        int: Number of convolutions that take Winograd's algorithm from now on.

    Example:
        >>> from torch import nn
        >>> from mobilevig_det.ops.cpu_fast_paths import apply_cpu_fast_paths
        >>> model = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1))
        >>> apply_cpu_fast_paths(model), apply_cpu_fast_paths(model)
        (1, 0)
    """
    changed = [m for m in model.modules() if _gains_from_winograd(m)]
    for module in changed:
        module.__class__ = WinogradConv2d
    for module in model.modules() if changed else ():
        if _is_ungrouped_conv(module):
            module.__class__ = ChannelsLastConv2d
        elif type(module) is RoIAlign:
            module.__class__ = ChannelsLastRoIAlign
        elif type(module) is RPNHead:
            module.__class__ = OneStepRPNHead
    return len(changed)


def cpu_fast_paths_enabled(cfg: dict) -> bool:
    """Read the switch of the fast paths, ``cpu_fast_paths``, from a config.

    Args:
        cfg (dict or Config): The whole config. Without the key the fast paths are
            on. ``default_hooks.winograd``, the switch of 0.2, is deprecated.

    Returns:
        bool: Whether to call :func:`apply_cpu_fast_paths` on the config's model.
    """
    hook = (cfg.get('default_hooks') or {}).get('winograd', {})
    if hook is None or not hook.get('enabled', True):
        warnings.warn(
            'default_hooks.winograd as a switch is deprecated and will be removed in '
            '0.4; use cpu_fast_paths = False at the top level of the config.',
            DeprecationWarning,
            stacklevel=2,
        )
        return False
    return bool(cfg.get('cpu_fast_paths', True))


def _is_ungrouped_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether this is a convolution of one group, and of no subclass."""
    return type(module) is nn.Conv2d and module.groups == 1


def _gains_from_winograd(module: nn.Module) -> bool:
    return (
        _is_ungrouped_conv(module)
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.padding_mode == 'zeros'
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
    )


def _is_plain_cpu(x: Tensor, weight: Tensor | None = None) -> bool:
    """Return whether to use a fast path: float32 on a CPU, in eager mode."""
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and (weight is None or weight.dtype == torch.float32)
        and not is_traced_or_compiled()
        and not _is_autocast_on_cpu()
    )


def _is_autocast_on_cpu() -> bool:
    if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()


class ChannelsLastConv2d(nn.Conv2d):
    """Convolution that makes its input channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve in the channels-last memory format."""
        if x.ndim == 4 and _is_plain_cpu(x, self.weight):
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)


class WinogradConv2d(nn.Conv2d):
    """3x3 convolution of stride 1 that takes Winograd's algorithm for large maps."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with Winograd's algorithm where that is faster."""
        if self.takes_winograd(x):
            return winograd_conv3x3(x, self.weight, self.bias)
        return super().forward(x)

    def takes_winograd(self, x: Tensor) -> bool:
        """Return whether this map is convolved by Winograd's algorithm."""
        return (
            x.ndim == 4
            and _is_plain_cpu(x, self.weight)
            and window_count(x.shape, OUT) >= FEWEST_TILES
        )


class ChannelsLastRoIAlign(RoIAlign):
    """Average RoIAlign of channels-last maps, whose gradients are channels-last too.

    Takes the operators of :mod:`..mmcv_ops` whether or not mmcv is compiled: its
    compiled operators for CPUs read every map as one in the default layout. Other
    maps go to the base class.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool RoIs (N, 5) of a feature map; its gradient is channels-last."""
        last = input.is_contiguous(memory_format=torch.channels_last)
        if not last or self.pool_mode != 'avg' or not _is_plain_cpu(input):
            return super().forward(input, rois)
        return _AverageRoIAlign.apply(
            input, rois, self.output_size,
            self.spatial_scale, self.sampling_ratio, 1, self.aligned,
        )  # fmt: skip


class _AverageRoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, rois: Tensor, size: tuple[int, int], *args) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.args = x.shape, (*size, *args)
        out = x.new_zeros(len(rois), x.shape[1], *size)
        none = x.new_empty(0)
        roi_align_forward(x, rois, out, none, none, *ctx.args)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        maps = torch.empty(
            ctx.shape, dtype=grad.dtype, memory_format=torch.channels_last
        ).zero_()
        none = grad.new_empty(0)
        roi_align_backward(grad.contiguous(), rois, none, none, maps, *ctx.args)
        return (maps, *[None] * (len(ctx.args) + 1))


class OneStepRPNHead(RPNHead):
    """RPN head whose three layers are one autograd step.

    It is used if the 3x3 convolution takes Winograd's algorithm and no layer has hooks.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and deltas of the anchors of one level."""
        layers = self.rpn_conv, self.rpn_cls, self.rpn_reg
        if (
            type(self.rpn_conv) is not WinogradConv2d
            or not self.rpn_conv.takes_winograd(x)
            or any(map(has_hooks, layers))
        ):
            return super().forward_single(x)
        scores, deltas = rpn_layers(x, *(p for m in layers for p in (m.weight, m.bias)))
        return scores, deltas


def rpn_layers(
    x: Tensor, weight: Tensor, bias: Tensor, *predictors: Tensor
) -> tuple[Tensor, ...]:
    """Apply a 3x3 convolution, by Winograd's algorithm, ReLU, and 1x1 convolutions.

    No hidden map is stored for the backward, whose gradient is at few pixels
    (:mod:`.sparse_gradient`): it is computed again at these only.

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


def _apply_rpn_layers(
    x: Tensor, weight: Tensor, bias: Tensor, *predictors: Tensor
) -> tuple[Tensor, ...]:
    hidden = winograd_conv3x3(x, weight, bias).relu_()
    pairs = zip(predictors[::2], predictors[1::2])
    return tuple(F.conv2d(hidden, w, b) for w, b in pairs)


class _RPN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return _apply_rpn_layers(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        masks = [nonzero_pixels(grad) for grad in grads]
        sparse = [mask for mask in masks if mask is not None]
        all_sparse = len(sparse) == len(masks)
        pixels = few_pixels(torch.stack(sparse).any(0)) if all_sparse else None
        if pixels is None:
            return _dense_rpn_gradients(ctx.saved_tensors, grads, ctx.needs_input_grad)
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


def _dense_rpn_gradients(
    inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    inputs = tuple(t.detach().requires_grad_(n) for t, n in zip(inputs, needed))
    with torch.enable_grad():
        outs = _apply_rpn_layers(*inputs)
    found = iter(
        torch.autograd.grad(outs, [t for t in inputs if t.requires_grad], grads)
    )
    return tuple(next(found) if n else None for n in needed)
