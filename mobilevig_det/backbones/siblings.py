"""What MobileViGv2, GreedyViG, RapidNet and AdaptViG are made of alike.

Their stages have MBConv blocks, then graph blocks: a position encoding and a mixer,
then an FFN, each with a layer scale.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .arguments import (
    check_graph_strides,
    check_layer_cfg,
    check_layer_scale,
    drop_path_rates,
    parse_arch,
)
from .base import BaseBackbone
from .layers import FFN, Branch, ConvNormAct, Downsample, MBConv, Stem


class PositionEncoding(nn.Conv2d):
    """Conditional position encoding: x and a depthwise convolution 7x7 of it."""

    folded = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.folded:
            return out
        return out.add_(x) if out.dtype == x.dtype else out + x

    def fold(self) -> None:
        """Have the convolution add x itself, by its centre tap."""
        if not self.folded:
            self.weight.data[:, :, 3, 3] += 1
            self.folded = True


class Mixer(Branch):
    """Position encoding, 1x1 conv, what mixes pixels, 1x1 conv."""

    last_layer = 'fc2'

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        norm_cfg: dict,
        layer_scale: Tensor,
        graph_conv: nn.Module,
    ) -> None:
        super().__init__(drop_path_rate, layer_scale)
        self.position = PositionEncoding(channels)
        self.fc1 = ConvNormAct(channels, channels, norm_cfg=norm_cfg)
        self.graph_conv: Any = graph_conv
        self.fc2 = ConvNormAct(channels, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.scaled(self.mix(self.fc1(self.position(x)))), x)

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def fuse(self) -> None:
        super().fuse()
        self.position.fold()


class GraphMixer(Mixer):
    """Mixes by a graph convolution: concat(x, x_j), then 1x1 conv.

    Args:
        graph_step (Callable): Computes x_j of x; may be a module.
        others: See :class:`Mixer`.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        norm_cfg: dict,
        act_cfg: dict,
        layer_scale: Tensor,
        graph_step: Callable[[Tensor], Tensor],
    ) -> None:
        graph_conv = ConvNormAct(
            2 * channels, channels, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        super().__init__(channels, drop_path_rate, norm_cfg, layer_scale, graph_conv)
        self.graph_step = graph_step

    def mix(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.graph_step(x)], dim=1)
        return self.run((self.graph_conv, self.fc2), x)


class GraphBlock(nn.Module):
    """A mixer, then an FFN."""

    def __init__(self, mixer: Branch, ffn: Branch) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.mixer(x))


class SiblingBackbone(BaseBackbone):
    """MBConv blocks, then graph blocks, in each stage.

    A subclass names its sizes and makes its graph blocks' parts.

    Args:
        arch (str | dict): A size's name, or a dict with the four stages'
            ``channels``, ``blocks`` (MBConv) and ``graph_blocks``.
        graph_strides (Sequence[int], optional): See the subclass.
        others: See :class:`.MobileViG`.
    """

    # The graph's step K of the stages, whose number a user's must be, too.
    graph_strides: tuple[int, ...] = ()
    # The authors' code moves on to the next rate after a graph block only.
    rates_skip_mbconv = False
    mixer: Callable[..., Mixer] = GraphMixer
    ffn: Callable[..., Branch] = FFN
    # Shape of a layer scale of C channels: (C, 1, 1), or (C,).
    flat_layer_scale = False

    def __init__(
        self,
        arch: str | dict = 'm',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        graph_strides: Sequence[int] | None = None,
        drop_path_rate: float = 0.1,
        layer_scale_init_value: float = 1e-5,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool | str = False,
        compile_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        setting = parse_arch(arch, self.arch_settings)
        channels = setting['channels']
        strides = self.graph_strides if graph_strides is None else graph_strides
        check_graph_strides(strides, len(self.graph_strides))
        check_layer_scale(layer_scale_init_value)
        check_layer_cfg('norm_cfg', norm_cfg)
        check_layer_cfg('act_cfg', act_cfg)
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        act_cfg = act_cfg or dict(type='GELU')
        depths = list(zip(setting['blocks'], setting['graph_blocks']))
        rates = drop_path_rates(drop_path_rate, sum(map(sum, depths)))

        def scale(width: int) -> Tensor:
            shape = (width,) if self.flat_layer_scale else (width, 1, 1)
            return torch.full(shape, float(layer_scale_init_value))

        stages: list[list[nn.Module]] = []
        number = 0  # of the rate
        for i, (width, (blocks, graph_blocks)) in enumerate(zip(channels, depths)):
            stage: list[nn.Module] = []
            for _ in range(blocks):
                stage.append(
                    MBConv(width, rates[number], scale(width), norm_cfg, act_cfg)
                )
                number += not self.rates_skip_mbconv
            for _ in range(graph_blocks):
                rate, step = rates[number], self.graph_step(i, width, strides)
                stage.append(
                    GraphBlock(
                        self.mixer(width, rate, norm_cfg, act_cfg, scale(width), step),
                        self.ffn(width, rate, norm_cfg, act_cfg, scale(width)),
                    )
                )
                number += 1
            stages.append(stage)
        super().__init__(
            arch,
            Stem(channels[0], norm_cfg, act_cfg),
            [
                Downsample(c_in, c_out, norm_cfg)
                for c_in, c_out in zip(channels[:-1], channels[1:])
            ],
            stages,
            out_indices,
            norm_eval,
            frozen_stages,
            with_cp,
            compile_cfg,
            init_cfg,
        )

    @staticmethod
    def graph_step(
        stage: int, channels: int, strides: Sequence[int]
    ) -> Callable[[Tensor], Tensor] | None:
        """What computes x_j in that stage's (from 0) graph blocks."""
        raise NotImplementedError
