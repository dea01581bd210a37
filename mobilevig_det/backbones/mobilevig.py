"""MobileViG backbone.

Source: MobileViG: Graph-Based Sparse Attention for Mobile Vision
Applications (CVPRW 2023, arXiv 2307.00395), section 3 and table 1.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from mmdet.registry import MODELS
from torch import Tensor

from ..ops import max_relative
from .arguments import check_arguments, parse_arch
from .base import BaseBackbone, Layout
from .layers import FFN, BlockConfig, Branch, ConvNormAct


class MaxRelativeGraphConv(ConvNormAct):
    """Max-relative graph convolution: concat(x, x_j), then 1x1 convolution."""

    def __init__(self, cfg: BlockConfig, graph_stride: int) -> None:
        width = 2 * cfg.channels
        super().__init__(width, width, norm_cfg=cfg.norm_cfg, act_cfg=cfg.act_cfg)
        self.graph_stride = graph_stride

    def join(self, x: Tensor) -> Tensor:
        """Concatenate x and x_j, the convolution's input."""
        return torch.cat([x, max_relative(x, self.graph_stride)], dim=1)


class Grapher(Branch):
    """Graph convolution between two 1x1 convolutions.

    Args:
        cfg (BlockConfig): Without a layer scale.
        graph_conv (Callable): Builds the graph convolution. Its ``join`` makes 2C
            channels of C, which it maps to 2C.
    """

    def __init__(self, cfg: BlockConfig, graph_conv: Callable[..., Any]) -> None:
        super().__init__(cfg)
        self.fc1 = cfg.conv(cfg.channels, cfg.channels)
        self.graph_conv: Any = graph_conv(cfg)
        self.fc2 = cfg.conv(2 * cfg.channels, cfg.channels)

    def branch(self, x: Tensor) -> Tensor:
        """Apply the graph convolution between two 1x1 convolutions."""
        return self.run((self.graph_conv, self.fc2), self.graph_conv.join(self.fc1(x)))


class SVGABlock(nn.Module):
    """Sparse vision graph attention block: Grapher, then FFN."""

    def __init__(self, grapher: Grapher, ffn: FFN) -> None:
        super().__init__()
        self.grapher = grapher
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        """Apply grapher and FFN to x (B, C, H, W)."""
        return self.ffn(self.grapher(x))


@MODELS.register_module()
class MobileViG(BaseBackbone):
    """MobileViG backbone.

    A PyTorch implementation of `MobileViG: Graph-Based Sparse Attention for
    Mobile Vision Applications <https://arxiv.org/abs/2307.00395>`_.

    Args:
        arch (str | dict): 'ti', 's', 'm' or 'b', or a dict with the four
            stages' ``channels`` and ``blocks``. Defaults to 'm'.
        out_indices (Sequence[int]): Stages to return, ascending, each in
            0-3 (strides 4, 8, 16, 32). Stages after the last one are neither
            run nor trained. Defaults to (0, 1, 2, 3).
        graph_stride (int): Distance K between the graph neighbours of a
            pixel, in pixels of the stride-32 map. Defaults to 2.
        drop_path_rate (float): Stochastic depth rate of the last block; the
            rates grow linearly from 0. Defaults to 0.1.
        layer_scale_init_value (float): Initial value of the layer scale.
            Defaults to 1e-5.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN', requires_grad=True)``.
        act_cfg (dict): Config of the activations. Defaults to
            ``dict(type='GELU')``, the exact one.
        norm_eval (bool): Whether to keep norm layers in eval mode when
            training (freeze running statistics). Defaults to False.
        frozen_stages (int): Stages to freeze (no gradients, eval mode). -1
            freezes nothing, 0 the stem, n the stem, the first n stages and the
            convolutions between them. Defaults to -1.
        with_cp (bool | str): Activation checkpointing. True recomputes each
            block in the backward: least memory, slower training. 'act'
            recomputes only norms and activations: about half the memory for
            little time. Neither changes gradients or running statistics.
            Defaults to False.
        compile_cfg (dict, optional): Arguments with which ``torch.compile``
            compiles the backbone, such as ``dict(fullgraph=True)``. Defaults
            to None: not compiled.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to None: Kaiming normal weights, zero biases.
        triton (bool): Deprecated and without effect: the Triton kernel of the
            graph step was removed. Defaults to False.

    Raises:
        UserError: (a ``ValueError``) for an argument out of its range, when
            built; for an image smaller than 32 pixels, when run; for a
            checkpoint of another architecture, when loaded.

    Examples:
        >>> import torch
        >>> from mobilevig_det import MobileViG
        >>> MobileViG.out_channels('m')
        [42, 84, 224, 400]
        >>> model = MobileViG('m').eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 42, 16, 24)
        (1, 84, 8, 12)
        (1, 224, 4, 6)
        (1, 400, 2, 3)
    """

    arch_settings: dict[str, dict[str, tuple[int, ...]]] = {
        'ti': dict(channels=(42, 84, 168, 256), blocks=(2, 2, 6, 2)),
        's': dict(channels=(42, 84, 176, 256), blocks=(3, 3, 9, 3)),
        'm': dict(channels=(42, 84, 224, 400), blocks=(3, 3, 9, 3)),
        'b': dict(channels=(42, 84, 240, 464), blocks=(5, 5, 15, 5)),
    }
    graph_strides = (2,)
    builds_stem_first = True

    def __init__(
        self,
        arch: str | dict = 'm',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        graph_stride: int = 2,
        *args: Any,
        triton: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(graph_stride=graph_stride, triton=triton)
        super().__init__(arch, out_indices, (graph_stride,), *args, **kwargs)

    @classmethod
    def layout(cls, arch: str | dict) -> Layout:
        """Return the channels of the stages, and their numbers of blocks."""
        setting = parse_arch(arch, cls.arch_settings)
        *blocks, graph_blocks = setting['blocks']
        return setting['channels'], [*((n, 0) for n in blocks), (0, graph_blocks)]

    def graph_block(
        self, stage: int, strides: Sequence[int], cfg: BlockConfig
    ) -> nn.Module:
        """Build a graph block of a stage."""
        cfg = cfg._replace(layer_scale=None)
        graph_conv = partial(MaxRelativeGraphConv, graph_stride=strides[0])
        return SVGABlock(Grapher(cfg, graph_conv), FFN(cfg))
