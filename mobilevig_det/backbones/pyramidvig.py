"""Pyramid ViG backbone.

Source: Vision GNN: An Image is Worth Graph of Nodes (NeurIPS 2022, arXiv 2206.00272),
table 2, and the reference implementation.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from ..errors import UserError
from ..ops import knn_max
from ..ops.knn_graph import TRAINING_GRID
from .arguments import parse_arch
from .base import BaseBackbone, Layout
from .layers import FFN, BlockConfig, ConvNormAct, Stem
from .mobilevig import Grapher, SVGABlock

GROUPS = 4
MAX_DILATION = 5


class PyramidStem(Stem):
    """Stem with a third 3x3 convolution and a learned position embedding."""

    def __init__(self, channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__(channels, norm_cfg, act_cfg)
        self.append(ConvNormAct(channels, channels, 3, norm_cfg=norm_cfg))
        self.pos_embed = nn.Parameter(
            torch.zeros(1, channels, TRAINING_GRID, TRAINING_GRID)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stem of images (B, 3, H, W), and add the resized positions."""
        x = super().forward(x)
        position = F.interpolate(self.pos_embed, x.shape[-2:], mode='bicubic')
        return x + position.to(x.dtype)


class KNNGraphConv(ConvNormAct):
    """Graph convolution: channels of x and x_j by turns, then a grouped 1x1 one."""

    def __init__(self, cfg: BlockConfig, stage: int) -> None:
        width = 2 * cfg.channels
        super().__init__(
            width, width, groups=GROUPS, norm_cfg=cfg.norm_cfg, act_cfg=cfg.act_cfg
        )
        self.stage = stage
        self.dilation = 1  # depends on the block's number in the network

    def join(self, x: Tensor) -> Tensor:
        """Interleave x and x_j, the convolution's input."""
        both = [x, knn_max(x, self.stage, self.dilation)]
        pairs = torch.stack([t.permute(0, 2, 3, 1) for t in both], -1)
        return pairs.flatten(3).permute(0, 3, 1, 2)


@MODELS.register_module()
class PyramidViG(BaseBackbone):
    """Pyramid ViG backbone.

    A PyTorch implementation of `Vision GNN: An Image is Worth Graph of Nodes
    <https://arxiv.org/abs/2206.00272>`_: graph blocks in all four stages. In a graph
    block a pixel is connected to nine others by features and position, in the first
    two stages to means of neighbouring pixels.

    The reference implementation accepts 224 x 224 pixels. For other sizes both position
    encodings are resized bicubically. A different rounding or padding may connect
    another pixel and change features noticeably.

    Args:
        arch (str | dict): 'ti', 's', 'm' or 'b', or a dict with the four stages'
            ``channels``, multiples of 4, and ``blocks``. Defaults to 'm'.
        graph_strides (None): There are none; other values are an error.
        layer_scale_init_value (float): Without effect: there is no layer scale.
        others: See :class:`.MobileViG`.

    Raises:
        UserError: As :class:`.MobileViG`.

    Examples:
        >>> import torch
        >>> from mobilevig_det import PyramidViG
        >>> PyramidViG.out_channels('ti')
        [48, 96, 240, 384]
        >>> model = PyramidViG('ti').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 48, 16, 24)
        (1, 96, 8, 12)
        (1, 240, 4, 6)
        (1, 384, 2, 3)
    """

    arch_settings = {
        'ti': dict(channels=(48, 96, 240, 384), blocks=(2, 2, 6, 2)),
        's': dict(channels=(80, 160, 400, 640), blocks=(2, 2, 6, 2)),
        'm': dict(channels=(96, 192, 384, 768), blocks=(2, 2, 16, 2)),
        'b': dict(channels=(128, 256, 512, 1024), blocks=(2, 2, 18, 2)),
    }
    stem_type = PyramidStem

    @classmethod
    def layout(cls, arch: str | dict) -> Layout:
        """Return the channels of the stages, and their numbers of blocks."""
        setting = parse_arch(arch, cls.arch_settings)
        if any(width % GROUPS for width in setting['channels']):
            raise UserError(
                f"arch['channels'] must be multiples of {GROUPS}, the groups of a "
                f'graph convolution, but got {setting["channels"]}.'
            )
        return setting['channels'], [(0, number) for number in setting['blocks']]

    def _build_stages(self, *args: Any) -> Iterator[list[nn.Module]]:
        number = 0  # of the block, in the whole network
        for blocks in super()._build_stages(*args):
            for block in blocks:
                assert isinstance(block, SVGABlock)
                block.grapher.graph_conv.dilation = min(number // 4 + 1, MAX_DILATION)
                number += 1
            yield blocks

    def graph_block(
        self, stage: int, strides: Sequence[int], cfg: BlockConfig
    ) -> nn.Module:
        """Build a graph block of a stage."""
        cfg = cfg._replace(layer_scale=None)
        return SVGABlock(Grapher(cfg, partial(KNNGraphConv, stage=stage)), FFN(cfg))
