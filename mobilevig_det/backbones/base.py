"""What all backbones do alike, whatever their stages are made of."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor

from ..checkpoints import through_scheme
from ..checkpoints.diagnosis import check_weights
from ..checkpoints.key_mapping import (
    CLASSIFIER_PREFIXES,
    backbone_of_classifier,
    from_authors,
    is_authors_layout,
)
from ..checkpoints.sibling_keys import with_unfolded_positions
from ..custom_op import is_traced
from ..errors import UserError
from .arguments import (
    NUM_STAGES,
    check_compile_cfg,
    check_frozen_stages,
    check_init_cfg,
    check_norm_eval,
    check_with_cp,
    parse_arch,
    parse_out_indices,
)
from .layers import Branch, ConvNormAct, recomputed

KAIMING = dict(
    type='Kaiming', layer='Conv2d', mode='fan_in', distribution='normal', bias=0
)


class BaseBackbone(BaseModule):
    """A stem and four stages of blocks, with a convolution between stages.

    Runs, freezes, fuses and loads them. A subclass names its sizes and how the
    authors name its weights, builds the parts, and documents the arguments.

    Args:
        arch (str | dict): As the user gave it.
        stem (nn.Module): Leads from the image to stride 4.
        downsamples (Sequence[nn.Module]): The i-th leads from stage i to
            stage i + 1, at half of the size.
        stages (Sequence[Sequence[nn.Module]]): The blocks of each stage.
        others: See :class:`.MobileViG`.
    """

    arch_settings: dict[str, dict[str, tuple[int, ...]]]
    num_stages = NUM_STAGES
    min_size = 32
    fused = False

    def __init__(
        self,
        arch: str | dict,
        stem: nn.Module,
        downsamples: Sequence[nn.Module],
        stages: Sequence[Sequence[nn.Module]],
        out_indices: Sequence[int],
        norm_eval: bool,
        frozen_stages: int,
        with_cp: bool | str,
        compile_cfg: dict | None,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(through_scheme(KAIMING if init_cfg is None else init_cfg))
        self.arch = arch
        self.out_indices = parse_out_indices(out_indices)
        check_frozen_stages(frozen_stages)
        check_with_cp(with_cp)
        check_norm_eval(norm_eval)
        check_compile_cfg(compile_cfg, with_cp)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.stem = stem
        self.downsamples = nn.ModuleList(downsamples)
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        for module in self.modules():
            if isinstance(module, Branch):
                module.recompute_act = with_cp == 'act'
        # Stages after the last output are there for checkpoints to fit, but
        # never run: DDP would wait for their gradients.
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
    def out_channels(
        cls, arch: str | dict = 'm', out_indices: Sequence[int] = (0, 1, 2, 3)
    ) -> list[int]:
        """Channels of the returned stages: what a neck's ``in_channels``
        must be."""
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
        if min(x.shape[-2:]) < self.min_size:
            raise UserError(
                f'{type(self).__name__} needs images of at least {self.min_size} x '
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
            for block in stage.children():
                if self.with_cp is True and x.requires_grad:
                    x = recomputed(block, block, x)
                else:
                    x = block(x)
            if i in self.out_indices:
                outs.append(x.contiguous() if channels_last else x)
        return tuple(outs)

    def fuse(self) -> 'BaseBackbone':
        """Fold norms and layer scales into the convolutions, for inference.

        Changes the model in place, for good: outputs stay what they were to
        rounding, the weights' names don't, and it can't be trained any more.
        Load the checkpoint before. Doing it again does nothing. Norms other
        than BatchNorm stay, and the layer scales behind them.

        Returns:
            BaseBackbone: The model itself.

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
            if isinstance(module, Branch):
                module.fuse()
        self.requires_grad_(False)
        self.fused = True
        return self

    def _freeze_stages(self) -> None:
        number = self.frozen_stages
        if number < 0:
            return
        leading = self.downsamples[: max(number - 1, 0)]
        for module in (self.stem, *leading, *self.stages[:number]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BaseBackbone':
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
            {cls.__name__: cls.arch_settings for cls in _with_sizes(BaseBackbone)},
        )
        state_dict.update((prefix + key, value) for key, value in weights.items())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _with_sizes(cls: type[BaseBackbone]) -> Iterator[type[BaseBackbone]]:
    """The backbones that there are, below one class."""
    for below in cls.__subclasses__():
        if hasattr(below, 'arch_settings'):
            yield below
        yield from _with_sizes(below)


def fuse_backbones(model: nn.Module) -> int:
    """Fuse every backbone of ours in a model that is loaded and in eval mode.

    Returns:
        int: How many there are.
    """
    backbones = [m for m in model.modules() if isinstance(m, BaseBackbone)]
    for backbone in backbones:
        backbone.fuse()
    return len(backbones)
