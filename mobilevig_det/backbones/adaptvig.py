"""AdaptViG backbone.

Source: AdaptViG: Adaptive Vision GNN with Exponential Decay Gating (WACV 2026, arXiv
2511.09942), section 3 and table 1.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from ..custom_op import is_traced
from ..ops import gated_max
from .base import BaseBackbone


class ExponentialDecayGating(nn.Module):
    """Graph step with two neighbours and, through a learned gate, farther ones."""

    def __init__(self, graph_stride: int) -> None:
        super().__init__()
        self.graph_stride = graph_stride
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Take the gated maximum over the links of each pixel of x (B, C, H, W)."""
        return gated_max(x, self.temperature, self.graph_stride)


class GlobalAttention(nn.Module):
    """``max(0, softmax(q k^T / sqrt(C / 4)) v - x)``, one head over all pixels."""

    reduction = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        mid = channels // self.reduction
        self.q = nn.Conv2d(channels, mid, 1, bias=False)
        self.k = nn.Conv2d(channels, mid, 1, bias=False)
        self.v = nn.Conv2d(channels, channels, 1, bias=False)
        self.q_norm = nn.LayerNorm(mid)
        self.k_norm = nn.LayerNorm(mid)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each pixel of x (B, C, H, W) to all pixels."""
        q, k, v = (
            conv(x).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if is_traced():
            out = self._exported(q, k, v.mT)
        else:
            out = F.scaled_dot_product_attention(q, k, v).mT
        return F.relu(out.reshape(x.shape) - x)

    @staticmethod
    def _exported(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute it transposed for exporters.

        OpenVINO 2026.4 computes what it recognizes as attention incorrectly for feature
        maps of any size.
        """
        weights = (k @ (q * q.shape[-1] ** -0.5).mT).softmax(1)
        return v @ weights


@MODELS.register_module()
class AdaptViG(BaseBackbone):
    """AdaptViG backbone.

    A PyTorch implementation of `AdaptViG: Adaptive Vision GNN with Exponential Decay
    Gating <https://arxiv.org/abs/2511.09942>`_: MBConv blocks and then graph blocks in
    every stage. In a graph block a pixel is connected to two others and, through
    gates, to those 2, 4, 8, ... pixels away; in stage 4 to all by attention.

    Args:
        arch (str | dict): 's', 'm' or 'b', or a dict with the four stages'
            ``channels`` (those of stage 4 at least 4), ``blocks`` (MBConv) and
            ``graph_blocks``. Defaults to 'm'.
        graph_strides (Sequence[int], optional): Distances K of the graph neighbours
            without a gate in stages 1-3, in pixels of their maps. Defaults to None:
            (8, 4, 2).
        others: See :class:`.MobileViG`.

    Raises:
        UserError: As :class:`.MobileViG`.

    Examples:
        >>> import torch
        >>> from mobilevig_det import AdaptViG
        >>> AdaptViG.out_channels('m')
        [48, 96, 192, 320]
        >>> model = AdaptViG('m').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 48, 16, 24)
        (1, 96, 8, 12)
        (1, 192, 4, 6)
        (1, 320, 2, 3)
    """

    arch_settings = {
        's': dict(
            channels=(32, 64, 128, 256), blocks=(3, 3, 9, 3), graph_blocks=(3, 3, 3, 3)
        ),
        'm': dict(
            channels=(48, 96, 192, 320), blocks=(4, 4, 12, 4), graph_blocks=(4, 4, 4, 4)
        ),
        'b': dict(
            channels=(48, 96, 192, 384), blocks=(5, 5, 15, 5), graph_blocks=(5, 5, 5, 5)
        ),
    }
    graph_strides = (8, 4, 2)
    flat_layer_scale = True

    @staticmethod
    def graph_step(stage: int, channels: int, strides: Sequence[int]) -> nn.Module:
        """Return the gated graph step, or attention in the stages after them."""
        if stage < len(strides):
            return ExponentialDecayGating(strides[stage])
        return GlobalAttention(channels)
