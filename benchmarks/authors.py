"""MobileViG as the authors run it: what ours is measured beside."""

from collections.abc import Callable
from functools import partial

from mobilevig_det.backbones import BaseBackbone, MobileViG
from mobilevig_det.backbones.layers import Branch, ConvNormAct
from mobilevig_det.backbones.mobilevig import MaxRelativeGraphConv

import torch
from torch import Tensor, nn


def definition(x: Tensor, stride: int = 2) -> Tensor:
    """The graph step as the authors run it: (H + W) / K rounds of roll,
    subtract and maximum."""
    out = x - x
    for dim in (2, 3):
        for i in range(stride, x.shape[dim], stride):
            out = torch.maximum(out, x - torch.roll(x, i, dim))
    return out


def _join(graph_conv: MaxRelativeGraphConv, x: Tensor) -> Tensor:
    return torch.cat([x, definition(x, graph_conv.graph_stride)], dim=1)


def _add(branch: Branch, out: Tensor, x: Tensor) -> Tensor:
    return x + branch.drop_path(out)


THEIRS: tuple[tuple[type, str, Callable], ...] = (
    (ConvNormAct, 'forward', nn.Sequential.forward),
    (MaxRelativeGraphConv, 'join', _join),
    (Branch, 'add', _add),
)


class AsTheAuthors(BaseBackbone):
    """A backbone with the definition's graph step, in the usual memory format,
    nothing in place, nothing folded."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            for kind, name, function in THEIRS:
                if isinstance(module, kind):
                    setattr(module, name, partial(function, module))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, outs = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else x)
            outs.append(x)
        return tuple(outs)


class Authors(AsTheAuthors, MobileViG):
    """See :class:`.AsTheAuthors`."""
