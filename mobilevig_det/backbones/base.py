"""Base class of the backbones: a stem and four stages of blocks."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from ..checkpoints import check_weights, through_scheme
from ..checkpoints.key_mapping import (
    CLASSIFIER_PREFIXES,
    backbone_of_classifier,
    from_authors,
    is_authors_layout,
)
from ..checkpoints.sibling_keys import with_unfolded_positions
from ..errors import UserError
from .arguments import (
    check_arguments,
    check_graph_strides,
    parse_arch,
    parse_out_indices,
)
from .layers import (
    FFN,
    BlockConfig,
    Branch,
    ConvNormAct,
    Downsample,
    GraphBlock,
    GraphMixer,
    MBConv,
    Mixer,
    Stem,
    check_size,
    convert_layout,
    recomputed,
)

KAIMING = dict(
    type='Kaiming', layer='Conv2d', mode='fan_in', distribution='normal', bias=0
)
# Channels of the stages, and their numbers of MBConv and graph blocks.
Layout = tuple[Sequence[int], Sequence[tuple[int, int]]]


class FusableBackbone(BaseModule):
    """A backbone that can freeze stages and norms, and be fused for inference.

    A subclass sets ``norm_eval`` and says what is frozen and fused.
    """

    norm_eval = False
    fused = False

    def _freeze_stages(self) -> None:
        raise NotImplementedError

    def _fuse(self) -> None:
        raise NotImplementedError

    @staticmethod
    def _take_weights(state_dict: dict, prefix: str) -> dict:
        """Remove the entries under a prefix, and return them without it."""
        return {
            key[len(prefix) :]: state_dict.pop(key)
            for key in list(state_dict)
            if key.startswith(prefix)
        }

    def fuse(self) -> 'FusableBackbone':
        """Fold norms, layer scales and parallel branches into convolutions.

        For inference: changes the model permanently and in place. Outputs stay the same
        to rounding; the weights' names change, and the model can't be trained any more.
        Load the checkpoint first. A second call does nothing. Norms other than
        BatchNorm stay, and so do the layer scales behind them.

        Returns:
            FusableBackbone: The model itself.

        Raises:
            UserError: If the model is in training mode.
        """
        if self.training:
            raise UserError(
                'fuse() is for inference, but the model is in '
                'training mode: call eval() first.'
            )
        if not self.fused:
            self._fuse()
        self.requires_grad_(False)
        self.fused = True
        return self

    def train(self, mode: bool = True) -> 'FusableBackbone':
        """Set training mode; frozen parts stay in eval mode.

        These are the frozen stages and, with ``norm_eval``, the norm layers.
        """
        if mode and self.fused:
            raise UserError(
                'A fused model has no norms left to train: build it again and load its '
                'checkpoint.'
            )
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class BaseBackbone(FusableBackbone):
    """A stem and four stages, with a convolution between stages.

    A stage has MBConv blocks and then graph blocks. The base class builds, runs,
    freezes, fuses and loads them. A subclass names its sizes, makes its graph blocks,
    and documents the arguments.

    Args:
        graph_strides (Sequence[int], optional): See the subclass.
        others: See :class:`.MobileViG`.
    """

    arch_settings: dict[str, dict[str, tuple[int, ...]]] = {}
    min_size = 32
    # Distances K of the graph neighbours; a user must give as many.
    graph_strides: tuple[int, ...] = ()
    # Whether an MBConv has the drop-path rate of the graph block that follows: some of
    # the authors' code takes the next rate after a graph block only.
    rates_skip_mbconv = False
    # Shape of a layer scale of C channels: (C,) rather than (C, 1, 1).
    flat_layer_scale = False
    # The order of building decides which random numbers a seed gives to which layer.
    builds_stem_first = False
    stem_type: type[Stem] = Stem
    mixer: Callable[..., Mixer] = GraphMixer
    ffn: Callable[..., Branch] = FFN

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
        strides = self.graph_strides if graph_strides is None else graph_strides
        check_graph_strides(strides, len(self.graph_strides))
        check_arguments(
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            compile_cfg=compile_cfg,
            init_cfg=init_cfg,
        )
        super().__init__(through_scheme(KAIMING if init_cfg is None else init_cfg))
        self.arch = arch
        self.out_indices = parse_out_indices(out_indices)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        act_cfg = act_cfg or dict(type='GELU')
        channels = self.out_channels(arch)
        stages: Iterable = self._build_stages(
            arch, strides, drop_path_rate, layer_scale_init_value, norm_cfg, act_cfg
        )
        if not self.builds_stem_first:
            stages = list(stages)
        self.stem = self.stem_type(channels[0], norm_cfg, act_cfg)
        self.downsamples = nn.ModuleList(
            Downsample(c_in, c_out, norm_cfg)
            for c_in, c_out in zip(channels[:-1], channels[1:])
        )
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        for module in self.modules():
            if isinstance(module, Branch):
                module.recompute_act = with_cp == 'act'
        # Stages after the last output exist for checkpoints to fit, but never run: DDP
        # would wait for their gradients.
        last = self.out_indices[-1]
        for module in (*self.downsamples[last:], *self.stages[last + 1 :]):
            module.requires_grad_(False)
        self._freeze_stages()
        if compile_cfg is not None:
            try:
                self.compile(**compile_cfg)
            except TypeError as error:
                raise UserError(
                    f'compile_cfg={compile_cfg!r} is not for torch.compile: {error}'
                ) from error

    @classmethod
    def layout(cls, arch: str | dict) -> Layout:
        """Return the stages' channels, and their numbers of MBConv and graph blocks."""
        setting = parse_arch(arch, cls.arch_settings)
        depths = list(zip(setting['blocks'], setting['graph_blocks']))
        return setting['channels'], depths

    def _build_stages(
        self,
        arch: str | dict,
        strides: Sequence[int],
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> Iterator[list[nn.Module]]:
        channels, depths = self.layout(arch)
        last, count = float(drop_path_rate), sum(map(sum, depths))
        rates = torch.linspace(0, last, count, device='cpu').tolist()
        number = 0  # of the rate
        for stage, (width, (blocks, graph_blocks)) in enumerate(zip(channels, depths)):
            shape = (width,) if self.flat_layer_scale else (width, 1, 1)
            layer_scale = torch.full(shape, float(layer_scale_init_value))
            modules: list[nn.Module] = []
            for i in range(blocks + graph_blocks):
                cfg = BlockConfig(width, rates[number], norm_cfg, act_cfg, layer_scale)
                if i < blocks:
                    modules.append(MBConv(cfg))
                    number += not self.rates_skip_mbconv
                else:
                    modules.append(self.graph_block(stage, strides, cfg))
                    number += 1
            yield modules

    def graph_block(
        self, stage: int, strides: Sequence[int], cfg: BlockConfig
    ) -> nn.Module:
        """Build a graph block of a stage, counted from 0.

        Args:
            stage (int): The stage.
            strides (Sequence[int]): The ``graph_strides``.
            cfg (BlockConfig): With a layer scale.
        """
        step = self.graph_step(stage, cfg.channels, strides)
        return GraphBlock(self.mixer(cfg, step), self.ffn(cfg))

    @staticmethod
    def graph_step(
        stage: int, channels: int, strides: Sequence[int]
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what computes x_j in the graph blocks of a stage, counted from 0."""
        raise NotImplementedError

    @classmethod
    def out_channels(
        cls, arch: str | dict = 'm', out_indices: Sequence[int] = (0, 1, 2, 3)
    ) -> list[int]:
        """Return the channels of the returned stages: a neck's ``in_channels``."""
        channels = parse_arch(arch, cls.arch_settings)['channels']
        return [channels[i] for i in parse_out_indices(out_indices)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images of shape (B, 3, H, W), H and W at least 32.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices`` a map of shape
            (B, channels[i], ceil(H / 2**(i + 2)), ceil(W / 2**(i + 2))).
        """
        x = check_size(x, self.min_size, type(self).__name__)
        # CPUs convolve channels-last maps much faster. The outputs have the usual
        # format again, which mmcv's operators are written for.
        x = self.stem(convert_layout(x, channels_last=True))
        outs = []
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            if i > 0:
                x = self.downsamples[i - 1](x)
            for block in stage.children():
                if self.with_cp is True and x.requires_grad:
                    x = recomputed(block, block, x)
                else:
                    x = block(x)
            if i in self.out_indices:
                outs.append(convert_layout(x, channels_last=False))
        return tuple(outs)

    def _fuse(self) -> None:
        for module in self.modules():
            if isinstance(module, ConvNormAct):
                module.fuse()
        for module in self.modules():
            if isinstance(module, Branch):
                module.fuse()

    def _freeze_stages(self) -> None:
        number = self.frozen_stages
        if number < 0:
            return
        leading = self.downsamples[: max(number - 1, 0)]
        for module in (self.stem, *leading, *self.stages[:number]):
            module.eval()
            module.requires_grad_(False)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # Checked here, because every way of loading a checkpoint into a model comes
        # through here, whatever its prefix. Strict, whatever the caller asked for: a
        # backbone that kept its random weights would train, and badly.
        weights = self._take_weights(state_dict, prefix)
        weights = backbone_of_classifier(weights)
        if is_authors_layout(weights):
            renamed = with_unfolded_positions(from_authors(weights))
            weights = {
                key: value
                for key, value in renamed.items()
                if not key.startswith(CLASSIFIER_PREFIXES)
            }
        check_weights(
            weights,
            self.state_dict(),
            prefix,
            f'{type(self).__name__}, arch={self.arch!r}',
            {cls.__name__: cls.arch_settings for cls in BaseBackbone.__subclasses__()},
        )
        state_dict.update((prefix + key, value) for key, value in weights.items())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def fuse_backbones(model: nn.Module) -> int:
    """Fuse every backbone of this package in a loaded model in eval mode.

    Returns:
        int: Number of backbones.
    """
    backbones = [m for m in model.modules() if isinstance(m, FusableBackbone)]
    for backbone in backbones:
        backbone.fuse()
    return len(backbones)
