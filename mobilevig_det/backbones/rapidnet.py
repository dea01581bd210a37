"""RapidNet backbone.

Source: RapidNet: Multi-Level Dilated Convolution Based Mobile Backbone (WACV 2025,
arXiv 2412.10995), section 3 and table 1.
"""

from collections.abc import Sequence

import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from .base import BaseBackbone
from .layers import FFN, BlockConfig, Mixer


class MultiLevelDilatedConv(nn.ModuleList):
    """Sum of two dense 3x3 convolutions of dilation 2 and 3."""

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(
            cfg.conv(cfg.channels, cfg.channels, 3, act=True, dilation=dilation)
            for dilation in (2, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the outputs of both convolutions for x (B, C, H, W)."""
        return self[0](x) + self[1](x)


class DilatedMixer(Mixer):
    """Mixer with dilated convolutions instead of a graph."""

    def __init__(self, cfg: BlockConfig, graph_step: None) -> None:
        super().__init__(cfg, MultiLevelDilatedConv(cfg))

    def branch(self, x: Tensor) -> Tensor:
        """Mix the pixels of x (B, C, H, W) with dilated convolutions."""
        return self.fc2(self.graph_conv(self.fc1(self.position(x))))


class LargeKernelFFN(FFN):
    """7x7 depthwise convolution without a bias, then an FFN."""

    layers = ('depthwise', 'fc1', 'fc2')

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(cfg)
        self.depthwise = cfg.conv(
            cfg.channels, cfg.channels, 7, groups=cfg.channels, bias=False
        )


@MODELS.register_module()
class RapidNet(BaseBackbone):
    """RapidNet backbone.

    A PyTorch implementation of `RapidNet: Multi-Level Dilated Convolution Based
    Mobile Backbone <https://arxiv.org/abs/2412.10995>`_: MBConv blocks, followed by
    blocks of dilated convolutions in the last two stages. It has no graph.

    Args:
        arch (str | dict): 'ti', 's', 'm' or 'b', or a dict with the four stages'
            ``channels``, ``blocks`` (MBConv) and ``graph_blocks`` (dilated).
            Defaults to 'm'.
        graph_strides (None): There is no graph; other values are an error.
        others: See :class:`.MobileViG`. With ``drop_path_rate`` p, the rates are the
            authors': of linspace(0, p, all blocks), each dilated block takes the next
            one, and an MBConv has the rate of the dilated block that follows. So the
            last rate in use is about 0.2 p.

    Raises:
        UserError: As :class:`.MobileViG`.

    Examples:
        >>> import torch
        >>> from mobilevig_det import RapidNet
        >>> RapidNet.out_channels('m')
        [32, 64, 160, 320]
        >>> model = RapidNet('m').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 32, 16, 24)
        (1, 64, 8, 12)
        (1, 160, 4, 6)
        (1, 320, 2, 3)
    """

    arch_settings = {
        'ti': dict(
            channels=(32, 64, 112, 224), blocks=(2, 2, 6, 2), graph_blocks=(0, 0, 2, 2)
        ),
        's': dict(
            channels=(32, 64, 112, 224), blocks=(3, 3, 9, 3), graph_blocks=(0, 0, 3, 3)
        ),
        'm': dict(
            channels=(32, 64, 160, 320), blocks=(3, 3, 9, 3), graph_blocks=(0, 0, 3, 3)
        ),
        'b': dict(
            channels=(64, 128, 224, 416), blocks=(3, 3, 9, 3), graph_blocks=(0, 0, 3, 3)
        ),
    }
    mixer = DilatedMixer
    ffn = LargeKernelFFN
    rates_skip_mbconv = True

    @staticmethod
    def graph_step(stage: int, channels: int, strides: Sequence[int]) -> None:
        """Return None: convolutions take the place of the graph step."""
        return None
