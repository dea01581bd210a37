"""MobileViG backbone.

Source: MobileViG: Graph-Based Sparse Attention for Mobile Vision
Applications (CVPRW 2023, arXiv 2307.00395), section 3 and table 1.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..checkpoints.key_mapping import (
    CLASSIFIER_PREFIXES,
    from_authors,
    guess_arch,
    is_authors_layout,
)
from ..checkpoints.weights import through_scheme
from ..errors import UserError
from ..ops.norm_act import norm_act
from ..ops.svga import is_traced, max_relative


class ConvNormAct(nn.Sequential):
    """Convolution with a bias (also before a norm), norm, activation.

    Not mmcv's ConvModule: that one warns of the bias and initialises the
    weights in its own way.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers['conv'] = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
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
        if isinstance(getattr(self, 'norm', None), _BatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            del self.norm


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


def _recomputed(function: Callable, module: nn.Module, x: Tensor) -> Tensor:
    """Run ``function`` of ``module``, and once more in the backward."""
    return cp.checkpoint(
        function,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_kept(module)),
    )


def _add(out: Tensor, x: Tensor) -> Tensor:
    """``x + out``, in the memory of ``out``, which no backward reads."""
    return out.add_(x) if out.dtype == x.dtype else x + out


class _Branch(nn.Module):
    """What has a residual branch of convolutions one after another."""

    # Set by MobileViG(with_cp='act').
    recompute_act = False

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
            x = _recomputed(
                lambda x, a=layer, b=following: b.conv(a.after_conv(x)), layer, x
            )
        return layers[-1].after_conv(x)


class MBConv(_Branch):
    """Inverted residual block with a layer scale (stages 1 to 3)."""

    expand_ratio = 4

    def __init__(
        self,
        channels: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        mid = channels * self.expand_ratio
        self.expand = ConvNormAct(channels, mid, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise = ConvNormAct(
            mid, mid, 3, groups=mid, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.project = ConvNormAct(mid, channels, norm_cfg=norm_cfg)
        self.layer_scale = nn.Parameter(
            torch.full((channels, 1, 1), float(layer_scale_init_value))
        )
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.run((self.expand, self.depthwise, self.project), x)
        if self.layer_scale is not None:
            out = self.layer_scale * out
        return _add(self.drop_path(out), x)

    def fuse(self) -> None:
        """Fold the layer scale into the last convolution, if it is next."""
        if self.layer_scale is not None and not hasattr(self.project, 'norm'):
            scale = self.layer_scale.detach()
            self.project.conv.weight.data.mul_(scale[..., None])
            self.project.conv.bias.data.mul_(scale.flatten())
            self.layer_scale = None


class MaxRelativeGraphConv(ConvNormAct):
    """Max-relative graph convolution: concat(x, x_j), then 1x1 conv."""

    def __init__(
        self, channels: int, graph_stride: int, norm_cfg: dict, act_cfg: dict
    ) -> None:
        super().__init__(2 * channels, 2 * channels, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.graph_stride = graph_stride

    def join(self, x: Tensor) -> Tensor:
        """What the convolution is of."""
        return torch.cat([x, max_relative(x, self.graph_stride)], dim=1)


class Grapher(_Branch):
    """Max-relative graph convolution between two 1x1 convolutions."""

    def __init__(
        self,
        channels: int,
        graph_stride: int,
        drop_path_rate: float,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.fc1 = ConvNormAct(channels, channels, norm_cfg=norm_cfg)
        self.graph_conv = MaxRelativeGraphConv(
            channels, graph_stride, norm_cfg, act_cfg
        )
        self.fc2 = ConvNormAct(2 * channels, channels, norm_cfg=norm_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.graph_conv.join(self.fc1(x))
        out = self.run((self.graph_conv, self.fc2), out)
        return _add(self.drop_path(out), x)


class FFN(_Branch):
    """Two 1x1 convolutions, four times as wide in between."""

    expand_ratio = 4

    def __init__(
        self, channels: int, drop_path_rate: float, norm_cfg: dict, act_cfg: dict
    ) -> None:
        super().__init__()
        mid = channels * self.expand_ratio
        self.fc1 = ConvNormAct(channels, mid, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.fc2 = ConvNormAct(mid, channels, norm_cfg=norm_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.run((self.fc1, self.fc2), x)
        return _add(self.drop_path(out), x)


class SVGABlock(nn.Module):
    """Sparse vision graph attention block: Grapher, then FFN (stage 4)."""

    def __init__(
        self,
        channels: int,
        graph_stride: int,
        drop_path_rate: float,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.grapher = Grapher(
            channels, graph_stride, drop_path_rate, norm_cfg, act_cfg
        )
        self.ffn = FFN(channels, drop_path_rate, norm_cfg, act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.grapher(x))


@MODELS.register_module()
class MobileViG(BaseModule):
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
            training (freeze running stats). Defaults to False.
        frozen_stages (int): Stages to be frozen (stop grad and set eval
            mode). -1 freezes nothing, 0 the stem, n the stem and the first n
            stages with what leads into them. Defaults to -1.
        with_cp (bool | str): Activation checkpointing. True recomputes each
            block in the backward: least memory, slower training. 'act'
            recomputes only norms and activations: about half the memory for
            little time. Either leaves the gradients and the running
            statistics as they are. Defaults to False.
        compile_cfg (dict, optional): Arguments with which ``torch.compile``
            compiles the backbone, such as ``dict(fullgraph=True)``. Defaults
            to None: not compiled.
        init_cfg (dict | list[dict], optional): Initialization config.
            Defaults to None: Kaiming normal weights, zero biases.

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
    num_stages = 4
    min_size = 32
    fused = False

    def __init__(
        self,
        arch: str | dict = 'm',
        out_indices: Sequence[int] = (0, 1, 2, 3),
        graph_stride: int = 2,
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
        if init_cfg is None:
            init_cfg = dict(
                type='Kaiming',
                layer='Conv2d',
                mode='fan_in',
                distribution='normal',
                bias=0,
            )
        super().__init__(through_scheme(init_cfg))
        setting = self._parse_arch(arch)
        channels, blocks = setting['channels'], setting['blocks']
        self.arch = arch
        self.out_indices = self._parse_out_indices(out_indices)
        if not isinstance(graph_stride, int) or graph_stride < 1:
            raise UserError(
                'graph_stride must be an integer of at least 1, '
                f'but got {graph_stride!r}.'
            )
        if not 0 <= drop_path_rate < 1:
            raise UserError(
                f'drop_path_rate must be in [0, 1), but got {drop_path_rate!r}.'
            )
        if frozen_stages not in range(-1, self.num_stages + 1):
            raise UserError(
                'frozen_stages must be an integer from -1 '
                '(nothing) to 4 (everything), but got '
                f'{frozen_stages!r}.'
            )
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        if with_cp not in (False, True, 'act'):
            raise UserError(
                f"with_cp must be True, False or 'act', but got {with_cp!r}."
            )
        self.with_cp = with_cp
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        act_cfg = act_cfg or dict(type='GELU')

        self.stem = nn.Sequential(
            ConvNormAct(3, channels[0] // 2, 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvNormAct(
                channels[0] // 2, channels[0], 3, 2, norm_cfg=norm_cfg, act_cfg=act_cfg
            ),
        )
        # downsamples[i] leads from stage i to stage i + 1.
        self.downsamples = nn.ModuleList(
            ConvNormAct(c_in, c_out, 3, 2, norm_cfg=norm_cfg)
            for c_in, c_out in zip(channels[:-1], channels[1:])
        )
        rates = torch.linspace(0, drop_path_rate, sum(blocks)).tolist()
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(channels, blocks)):
            stage = nn.Sequential()
            for _ in range(depth):
                rate = rates.pop(0)
                stage.append(
                    MBConv(width, rate, layer_scale_init_value, norm_cfg, act_cfg)
                    if i < self.num_stages - 1
                    else SVGABlock(width, graph_stride, rate, norm_cfg, act_cfg)
                )
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, _Branch):
                module.recompute_act = with_cp == 'act'
        # Stages after the last output are there for checkpoints to fit, but
        # never run: DDP would wait for their gradients.
        last = self.out_indices[-1]
        for module in (*self.downsamples[last:], *self.stages[last + 1 :]):
            module.requires_grad_(False)
        self._freeze_stages()
        if compile_cfg is not None:
            self.compile(**compile_cfg)

    @classmethod
    def out_channels(
        cls, arch: str | dict = 'm', out_indices: Sequence[int] = (0, 1, 2, 3)
    ) -> list[int]:
        """Channels of the returned stages: what a neck's ``in_channels``
        must be."""
        channels = cls._parse_arch(arch)['channels']
        return [channels[i] for i in cls._parse_out_indices(out_indices)]

    @classmethod
    def _parse_arch(cls, arch: str | dict) -> dict:
        if isinstance(arch, str):
            if arch.lower() not in cls.arch_settings:
                raise UserError(
                    f'Unknown arch {arch!r}: choose one of '
                    f'{", ".join(map(repr, cls.arch_settings))}, or give a '
                    "dict with 'channels' and 'blocks'."
                )
            return cls.arch_settings[arch.lower()]
        if not isinstance(arch, dict) or set(arch) != {'channels', 'blocks'}:
            raise UserError(
                "arch must be one of 'ti', 's', 'm', 'b' or a dict with "
                f"exactly 'channels' and 'blocks', but got {arch!r}."
            )
        channels, blocks = arch['channels'], arch['blocks']
        for name, value in arch.items():
            if not isinstance(value, Sequence) or not all(
                isinstance(v, int) and v > 0 for v in value
            ):
                raise UserError(
                    f'arch[{name!r}] must be a list of positive '
                    f'integers, but got {value!r}.'
                )
        if not len(channels) == len(blocks) == cls.num_stages:
            raise UserError(
                f"arch['channels'] and arch['blocks'] must both have "
                f'{cls.num_stages} entries, one a stage, but have '
                f'{len(channels)} and {len(blocks)}.'
            )
        return arch

    @classmethod
    def _parse_out_indices(cls, out_indices: Sequence[int]) -> tuple[int, ...]:
        indices = (
            tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
        )
        if (
            not indices
            or any(i not in range(cls.num_stages) for i in indices)
            or list(indices) != sorted(set(indices))
        ):
            raise UserError(
                'out_indices must be an ascending subset of (0, 1, 2, 3), '
                f'but got {out_indices!r}.'
            )
        return indices

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images of shape (B, 3, H, W), H and W at least 32.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices`` a map of shape
            (B, channels[i], ceil(H / 2**(i + 2)), ceil(W / 2**(i + 2))).
        """
        if min(x.shape[-2:]) < self.min_size:
            raise UserError(
                f'MobileViG needs images of at least {self.min_size} x '
                f'{self.min_size} pixels, but got {x.shape[-2]} x '
                f'{x.shape[-1]} (H x W): resize or pad them.'
            )
        # CPUs convolve channels-last maps much faster. The outputs are of the
        # usual format again, which is what mmcv's operators are written for.
        channels_last = x.device.type == 'cpu' and not is_traced()
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            if i > 0:
                x = self.downsamples[i - 1](x)
            for block in stage:
                if self.with_cp is True and x.requires_grad:
                    x = _recomputed(block, block, x)
                else:
                    x = block(x)
            if i in self.out_indices:
                outs.append(x.contiguous() if channels_last else x)
        return tuple(outs)

    def fuse(self) -> 'MobileViG':
        """Fold norms and layer scales into the convolutions, for inference.

        Changes the model in place, for good: outputs stay what they were to
        rounding, the weights' names don't, and it can't be trained any more.
        Load the checkpoint before. Doing it again does nothing. Norms other
        than BatchNorm stay, and the layer scales behind them.

        Returns:
            MobileViG: The model itself.

        Raises:
            UserError: If the model is in training mode.
        """
        if self.training:
            raise UserError(
                'fuse() is for inference, but the model is in '
                'training mode: call eval() first.'
            )
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fuse()
        for module in self.modules():
            if isinstance(module, MBConv):
                module.fuse()
        self.requires_grad_(False)
        self.fused = True
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [
            self.stem,
            *self.downsamples[: max(self.frozen_stages - 1, 0)],
            *self.stages[: self.frozen_stages],
        ]

    def _freeze_stages(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            for param in module.parameters():
                param.requires_grad = False

    def train(self, mode: bool = True) -> 'MobileViG':
        """Convert the model into training mode while keeping the frozen
        stages, and with ``norm_eval`` the norm layers, in eval mode."""
        if mode and self.fused:
            raise UserError(
                'A fused model has no norms left to train: build '
                'it anew and load its checkpoint.'
            )
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # Here, because every way of loading a checkpoint into a model comes
        # through here, whatever its prefix. Strict, whatever the caller asked
        # for: a backbone that kept its random weights would train, and badly.
        weights = {
            key[len(prefix) :]: state_dict.pop(key)
            for key in list(state_dict)
            if key.startswith(prefix)
        }
        if is_authors_layout(weights):
            weights = from_authors(weights)
            weights = {
                key: value
                for key, value in weights.items()
                if not key.startswith(CLASSIFIER_PREFIXES)
            }
        self._check_weights(weights, prefix)
        for key, value in weights.items():
            state_dict[prefix + key] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_weights(self, weights: dict[str, Tensor], prefix: str) -> None:
        """Raise a UserError unless the weights are all there, and fit."""
        own, given = (
            {
                key: tuple(getattr(value, 'shape', ()))
                for key, value in state_dict.items()
                if not key.endswith('num_batches_tracked')
            }
            for state_dict in (self.state_dict(), weights)
        )
        misfits = (
            ('missing', [k for k in own if k not in given]),
            ('unexpected', [k for k in given if k not in own]),
            (
                'of another shape',
                [
                    f'{k} {given[k]} instead of {own[k]}'
                    for k in own
                    if k in given and given[k] != own[k]
                ],
            ),
        )
        if not any(keys for _, keys in misfits):
            return
        lines = [
            'The checkpoint does not fit this backbone (MobileViG, '
            f'arch={self.arch!r}): {self._diagnose(weights, prefix)}'
        ]
        for name, keys in misfits:
            if keys:
                more = f', … ({len(keys)} in all)' if len(keys) > 4 else ''
                lines.append(f'  {name}: {", ".join(keys[:4])}{more}')
        raise UserError('\n'.join(lines))

    def _diagnose(self, weights: dict[str, Tensor], prefix: str) -> str:
        """What the weights that do not fit seem to be, and what to do."""
        if not weights:
            return (
                f'it holds no weights under {prefix!r}: it is of another model.'
                if prefix
                else 'it holds no weights.'
            )
        found = guess_arch(weights, self.arch_settings)
        if found and self._parse_arch(self.arch) != self.arch_settings[found]:
            return (
                f'it is of arch={found!r}. Use the config of that size, '
                'or another checkpoint.'
            )
        if found:
            return 'it is of this arch, but not complete, or changed.'
        inner = {
            key[len('backbone.') :] for key in weights if key.startswith('backbone.')
        }
        if is_authors_layout(inner) or inner & set(self.state_dict()):
            return (
                "it is a whole detector's. For its backbone alone add "
                "prefix='backbone.' to init_cfg."
            )
        if any(
            re.match(r'\d+\.[01]\.(fc1|graph_conv)\.', k) for k in weights
        ):  # what follows 'backbone.' in their names
            return (
                "it is a classifier's. It belongs into the backbone's "
                'init_cfg, without a prefix.'
            )
        return 'it is of another model.'


def fuse_backbones(model: nn.Module) -> int:
    """Fuse every MobileViG of a model that is loaded and in eval mode.

    Returns:
        int: How many there are.
    """
    backbones = [m for m in model.modules() if isinstance(m, MobileViG)]
    for backbone in backbones:
        backbone.fuse()
    return len(backbones)
