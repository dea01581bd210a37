"""mmcv's and MMDetection's layers for channels-last maps, on CPUs."""

import torch
from mmcv.ops import RoIAlign
from mmdet.models import RPNHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..mmcv_ops.roi_align import roi_align_backward, roi_align_forward
from .channels_last import is_plain_cpu
from .norm_act import has_hooks
from .rpn import rpn_layers
from .winograd import WinogradConv2d


class _Average(torch.autograd.Function):
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


class ChannelsLastRoIAlign(RoIAlign):
    """Averages of channels-last maps, whose gradients are so, too, by our operators,
    whichever mmcv has: its compiled ones for CPUs take every map for one in the usual
    format. Other maps, and those on a GPU, go to the base class."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        last = input.is_contiguous(memory_format=torch.channels_last)
        if not last or self.pool_mode != 'avg' or not is_plain_cpu(input):
            return super().forward(input, rois)
        return _Average.apply(
            input, rois, self.output_size,
            self.spatial_scale, self.sampling_ratio, 1, self.aligned,
        )  # fmt: skip


class OneStepRPNHead(RPNHead):
    """MMDetection's, with its layers as one step (:mod:`.rpn`) where its convolution is
    by Winograd's algorithm. Layers with hooks are called as they are."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.rpn_conv, self.rpn_cls, self.rpn_reg
        if (
            type(self.rpn_conv) is not WinogradConv2d
            or not self.rpn_conv.gains(x)
            or any(map(has_hooks, layers))
        ):
            return super().forward_single(x)
        scores, deltas = rpn_layers(x, *(p for m in layers for p in (m.weight, m.bias)))
        return scores, deltas


def turn(module: nn.Module) -> None:
    """A layer into ours, if it is one of MMDetection's and none of its subclasses."""
    if type(module) is RoIAlign:
        module.__class__ = ChannelsLastRoIAlign
    elif type(module) is RPNHead:
        module.__class__ = OneStepRPNHead
