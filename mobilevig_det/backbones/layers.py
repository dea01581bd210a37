"""Layers and blocks of the backbones."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..custom_op import graph_node, is_traced
from ..errors import UserError
from ..ops.norm_act import norm_act


@graph_node()
def add_into(out: Tensor, x: Tensor) -> Tensor:
    """Compute ``out + x`` in the memory of ``out`` where the dtype is the same."""
    return out.add_(x) if out.dtype == x.dtype else x + out


@graph_node()
def check_size(x: Tensor, min_size: int, name: str) -> Tensor:
    """Return ``x``; raise a UserError if the images are smaller than the minimum."""
    height, width = x.shape[-2:]
    if height < min_size or width < min_size:
        raise UserError(
            f'{name} needs images of at least {min_size} x {min_size} pixels, but got '
            f'{height} x {width} (H x W): resize or pad them.'
        )
    return x


def keep_layout(x: Tensor, channels_last: bool) -> Tensor:
    """Return ``x``: :func:`convert_layout` under TorchScript."""
    return x


@graph_node(keep_layout)
def convert_layout(x: Tensor, channels_last: bool) -> Tensor:
    """Convert a map on a CPU to channels-last memory or back; exporters see none."""
    if x.device.type != 'cpu' or is_traced():
        return x
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


class ConvNormAct(nn.Sequential):
    """Convolution (with a bias also before a norm), norm, activation.

    Not mmcv's ConvModule, which warns of the bias and initializes the weights in its
    own way.
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
        padding = kernel_size // 2 * dilation
        size = in_channels, out_channels, kernel_size
        layers['conv'] = nn.Conv2d(*size, stride, padding, dilation, groups, bias)
        if norm_cfg is not None:
            layers['norm'] = build_norm_layer(norm_cfg, out_channels)[1]
        if act_cfg is not None:
            layers['act'] = build_activation_layer(act_cfg)
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, norm and activation to x (B, C, H, W)."""
        return self.after_conv(self.conv(x))

    def after_conv(self, x: Tensor) -> Tensor:
        """Apply norm and activation, if there are any."""
        return norm_act(x, getattr(self, 'norm', None), getattr(self, 'act', None))

    def fuse(self) -> None:
        """Fold a BatchNorm into the convolution. Other norms stay."""
        norm = getattr(self, 'norm', None)
        if isinstance(norm, _BatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv, norm)
            del self.norm


class Stem(nn.Sequential):
    """Two 3x3 convolutions of stride 2: to half of the channels, then to all."""

    def __init__(self, channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        half = channels // 2
        super().__init__(
            ConvNormAct(3, half, 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvNormAct(half, channels, 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg),
        )


class Downsample(ConvNormAct):
    """3x3 convolution of stride 2, from one stage to the next."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__(in_channels, out_channels, 3, 2, norm_cfg=norm_cfg)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics from counting a recomputed batch twice."""
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
    """Run ``function``, a part of ``module``, and once more in the backward."""
    return cp.checkpoint(
        function,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(module)),
    )


class BlockConfig(NamedTuple):
    """What a block is built from.

    Attributes:
        channels: Channels of its input and output.
        drop_path_rate: Probability that training leaves a branch out.
        norm_cfg: Config of the norms.
        act_cfg: Config of the activations.
        layer_scale: Initial scale of a branch's result, of shape (C, 1, 1) or (C,).
            None for no layer scale.
    """

    channels: int
    drop_path_rate: float
    norm_cfg: dict
    act_cfg: dict
    layer_scale: Tensor | None = None

    def conv(self, *sizes: Any, act: bool = False, **kwargs: Any) -> ConvNormAct:
        """Build a convolution with the norm and, with ``act``, the activation."""
        kwargs |= dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg if act else None)
        return ConvNormAct(*sizes, **kwargs)


class Branch(nn.Module):
    """Residual block: ``x + drop_path(layer_scale * branch(x))``."""

    # Names of the convolutions, in order. The layer scale is folded into the last.
    layers: tuple[str, ...]
    # Set by a backbone's with_cp='act'.
    recompute_act = False

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__()
        self.drop_path = DropPath(cfg.drop_path_rate)
        scale = cfg.layer_scale
        self.layer_scale = None if scale is None else nn.Parameter(scale.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled branch to x (B, C, H, W)."""
        out = self.branch(x)
        if self.layer_scale is not None:
            out = self.layer_scale.view(-1, 1, 1) * out
        return self.add(out, x)

    def branch(self, x: Tensor) -> Tensor:
        """Run the layers of the branch on x (B, C, H, W)."""
        return self.run([getattr(self, name) for name in self.layers], x)

    def run(self, layers: Sequence[ConvNormAct], x: Tensor) -> Tensor:
        """Run layers one after another.

        With ``recompute_act``, norms and activations between two layers are recomputed
        in the backward: of the three maps that norm, activation and convolution keep,
        only the first is left. (PyTorch stops recomputing at the last of them, before
        the convolution.)
        """
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

    def add(self, out: Tensor, x: Tensor) -> Tensor:
        """Add the branch's ``out`` to ``x``, in place if no backward pass reads it."""
        return add_into(self.drop_path(out), x)

    def fuse(self) -> None:
        """Fold the layer scale into the last convolution, unless a norm follows it."""
        if self.layer_scale is None:
            return
        last = getattr(self, self.layers[-1])
        if hasattr(last, 'norm'):
            return
        scale, conv = self.layer_scale.detach(), last.conv
        conv.weight.data.mul_(scale.view(-1, 1, 1, 1))
        conv.bias.data.mul_(scale.flatten())
        self.layer_scale = None


class MBConv(Branch):
    """Inverted residual block with a layer scale."""

    expand_ratio = 4
    layers = ('expand', 'depthwise', 'project')

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(cfg)
        mid = cfg.channels * self.expand_ratio
        self.expand = cfg.conv(cfg.channels, mid, act=True)
        self.depthwise = cfg.conv(mid, mid, 3, groups=mid, act=True)
        self.project = cfg.conv(mid, cfg.channels)


class FFN(Branch):
    """Two 1x1 convolutions, four times as wide in between."""

    expand_ratio = 4
    layers: tuple[str, ...] = ('fc1', 'fc2')

    def __init__(self, cfg: BlockConfig) -> None:
        super().__init__(cfg)
        mid = cfg.channels * self.expand_ratio
        self.fc1 = cfg.conv(cfg.channels, mid, act=True)
        self.fc2 = cfg.conv(mid, cfg.channels)


class PositionEncoding(nn.Conv2d):
    """Conditional position encoding: x plus a 7x7 depthwise convolution of it."""

    folded = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolution of x (B, C, H, W) to it."""
        out = super().forward(x)
        return out if self.folded else add_into(out, x)

    def fold(self) -> None:
        """Make the convolution add x itself, through its centre weight."""
        if not self.folded:
            self.weight.data[:, :, 3, 3] += 1
            self.folded = True


class Mixer(Branch):
    """Position encoding, 1x1 convolution, a mixing of pixels, 1x1 convolution.

    Args:
        cfg (BlockConfig): With a layer scale.
        graph_conv (nn.Module): Mixes the pixels, or combines them with their graph
            neighbours.
    """

    layers = ('fc1', 'graph_conv', 'fc2')

    def __init__(self, cfg: BlockConfig, graph_conv: nn.Module) -> None:
        super().__init__(cfg)
        self.position = PositionEncoding(cfg.channels)
        self.fc1 = cfg.conv(cfg.channels, cfg.channels)
        self.graph_conv: Any = graph_conv
        self.fc2 = cfg.conv(cfg.channels, cfg.channels)

    def fuse(self) -> None:
        """Fold BatchNorms and the position encoding into convolutions."""
        super().fuse()
        self.position.fold()


class GraphMixer(Mixer):
    """Mixer with a graph convolution: concat(x, x_j), then 1x1 convolution.

    Args:
        cfg (BlockConfig): With a layer scale.
        graph_step (Callable): Computes x_j from x; may be a module.
    """

    def __init__(
        self, cfg: BlockConfig, graph_step: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(cfg, cfg.conv(2 * cfg.channels, cfg.channels, act=True))
        self.graph_step = graph_step

    def branch(self, x: Tensor) -> Tensor:
        """Join x (B, C, H, W) with its graph step, and mix the channels."""
        x = self.fc1(self.position(x))
        x = torch.cat([x, self.graph_step(x)], dim=1)
        return self.run((self.graph_conv, self.fc2), x)


class GraphBlock(nn.Module):
    """A mixer, then an FFN."""

    def __init__(self, mixer: Branch, ffn: Branch) -> None:
        super().__init__()
        self.mixer = mixer
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        """Apply mixer and FFN to x (B, C, H, W)."""
        return self.ffn(self.mixer(x))
