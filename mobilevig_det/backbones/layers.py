"""The layers and blocks that MobileViG shares with its siblings."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..ops.norm_act import norm_act


class ConvNormAct(nn.Sequential):
    """Convolution, with a bias also before a norm, norm, activation.

    Not mmcv's ConvModule: that one warns of the bias and initialises the
    weights in its own way.
    """

    conv: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers['conv'] = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        if norm_cfg is not None:
            layers['norm'] = build_norm_layer(norm_cfg, out_channels)[1]
        if act_cfg is not None:
            layers['act'] = build_activation_layer(act_cfg)
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_conv(self.conv(x))

    def after_conv(self, x: Tensor) -> Tensor:
        return norm_act(x, getattr(self, 'norm', None), getattr(self, 'act', None))

    def fuse(self) -> None:
        """Fold the norm, if it is a BatchNorm, into the convolution."""
        norm = getattr(self, 'norm', None)
        if isinstance(norm, _BatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv, norm)
            del self.norm


class Stem(nn.Sequential):
    """Two convolutions 3x3 of stride 2, to half of the channels and to all."""

    def __init__(self, channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__(
            ConvNormAct(3, channels // 2, 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvNormAct(
                channels // 2, channels, 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg
            ),
        )


class Downsample(ConvNormAct):
    """Convolution 3x3 of stride 2, from one stage to the next."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__(in_channels, out_channels, 3, 2, norm_cfg=norm_cfg)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep running statistics from counting a recomputed batch twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept):
            norm.momentum, norm.num_batches_tracked = momentum, count


def recomputed(function: Callable, module: nn.Module, x: Tensor) -> Tensor:
    """Run ``function`` of ``module``, and once more in the backward."""
    return cp.checkpoint(
        function,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(module)),
    )


class Branch(nn.Module):
    """What has a residual branch of convolutions one after another.

    Args:
        drop_path_rate (float): How often training leaves the branch out.
        layer_scale (Tensor, optional): Initial scale of its result: of shape
            (C, 1, 1) or (C,). Defaults to None: not scaled.
    """

    # Set by a backbone's with_cp='act'.
    recompute_act = False
    last_layer: str  # the name of the one that the scale is folded into

    def __init__(
        self, drop_path_rate: float, layer_scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale = None if layer_scale is None else nn.Parameter(layer_scale)

    def run(self, layers: Sequence[ConvNormAct], x: Tensor) -> Tensor:
        """Run the layers, between two of them perhaps with norm and
        activation recomputed in the backward: of the three maps that norm,
        activation and convolution keep, that leaves the first. (PyTorch stops
        recomputing at the last of them, before the convolution.)"""
        if not (self.recompute_act and torch.is_grad_enabled() and x.requires_grad):
            for layer in layers:
                x = layer(x)
            return x
        x = layers[0].conv(x)
        for layer, following in zip(layers, layers[1:]):
            x = recomputed(
                lambda x, a=layer, b=following: b.conv(a.after_conv(x)), layer, x
            )
        return layers[-1].after_conv(x)

    def scaled(self, out: Tensor) -> Tensor:
        return (
            out if self.layer_scale is None else self.layer_scale.view(-1, 1, 1) * out
        )

    def add(self, out: Tensor, x: Tensor) -> Tensor:
        """``x`` plus the branch's ``out``, in the memory of ``out``, which no
        backward reads."""
        out = self.drop_path(out)
        return out.add_(x) if out.dtype == x.dtype else x + out

    def fuse(self) -> None:
        """Fold the layer scale into the last convolution, if it is next."""
        if self.layer_scale is None or hasattr(getattr(self, self.last_layer), 'norm'):
            return
        scale, conv = self.layer_scale.detach(), getattr(self, self.last_layer).conv
        conv.weight.data.mul_(scale.view(-1, 1, 1, 1))
        conv.bias.data.mul_(scale.flatten())
        self.layer_scale = None


class MBConv(Branch):
    """Inverted residual block with a layer scale."""

    expand_ratio = 4
    last_layer = 'project'

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        layer_scale: Tensor,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__(drop_path_rate, layer_scale)
        mid = channels * self.expand_ratio
        self.expand = ConvNormAct(channels, mid, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise = ConvNormAct(
            mid, mid, 3, groups=mid, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.project = ConvNormAct(mid, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        out = self.run((self.expand, self.depthwise, self.project), x)
        return self.add(self.scaled(out), x)


class FFN(Branch):
    """Two 1x1 convolutions, four times as wide in between."""

    expand_ratio = 4
    last_layer = 'fc2'

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        norm_cfg: dict,
        act_cfg: dict,
        layer_scale: Tensor | None = None,
    ) -> None:
        super().__init__(drop_path_rate, layer_scale)
        mid = channels * self.expand_ratio
        self.fc1 = ConvNormAct(channels, mid, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.fc2 = ConvNormAct(mid, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        out = self.run((self.fc1, self.fc2), x)
        return self.add(self.scaled(out), x)
