"""Reference implementation: graph steps and backbones as the authors run them.

The graph steps follow the definitions and make the same copies as the authors' code.
The backbones use them in PyTorch's default memory format, without in-place operations
and without folded BatchNorm.
"""

from collections.abc import Callable
from functools import partial

from mobilevig_det.backbones import (
    AdaptViG,
    BaseBackbone,
    GreedyViG,
    MobileViG,
    MobileViGv2,
    RapidNet,
)
from mobilevig_det.backbones.adaptvig import ExponentialDecayGating
from mobilevig_det.backbones.layers import Branch, ConvNormAct, GraphMixer
from mobilevig_det.backbones.mobilevig import MaxRelativeGraphConv

import torch
from torch import Tensor, nn


def svga(x: Tensor, stride: int = 2) -> Tensor:
    """Graph step of MobileViG: (H + W) / stride rolls, subtractions and maxima."""
    x_j = x - x
    for dim in (2, 3):
        for i in range(stride, x.shape[dim], stride):
            x_j = torch.maximum(x_j, x - torch.roll(x, i, dim))
    return x_j


def _shift(x: Tensor, n: int, dim: int) -> Tensor:
    """Roll by slicing and concatenation; shifts beyond the side change nothing."""
    size = x.shape[dim]
    if abs(n) > size:
        return x
    first = size - n if n > 0 else -n
    return torch.cat([x.narrow(dim, first, size - first), x.narrow(dim, 0, first)], dim)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.norm(x - y, p=1, dim=1, keepdim=True)


def mgc(x: Tensor, stride: int) -> Tensor:
    """Graph step of MobileViGv2 and RapidNet."""
    x_j = x - x
    for dim in (2, 3):
        for n in (stride, -stride):
            x_j = torch.max(x_j, _shift(x, n, dim) - x)
    return x_j


def dagc(x: Tensor, stride: int) -> Tensor:
    """Graph step of GreedyViG."""
    half = _shift(_shift(x, -(-x.shape[2] // 2), 2), -(-x.shape[3] // 2), 3)
    norm = _distance(x, half)
    mean, std = norm.mean((2, 3), keepdim=True), norm.std((2, 3), keepdim=True)
    x_j = x - x
    for dim in (2, 3):
        for i in range(stride, x.shape[dim], stride):
            other = _shift(x, i, dim)
            mask = torch.where(_distance(x, other) < mean - std, 1, 0)
            x_j = torch.max(x_j, (other - x) * mask)
    return x_j


def agc(x: Tensor, temperature: Tensor, stride: int) -> Tensor:
    """Graph step of AdaptViG."""
    x_j = x - x
    for dim in (2, 3):
        x_j = torch.max(x_j, _shift(x, stride, dim) - x)
    for dim in (2, 3):
        i = 2
        while i <= x.shape[dim]:
            other = _shift(x, i, dim)
            gate = torch.exp(-_distance(x, other) / (temperature.abs() + 1e-6))
            x_j = torch.max(x_j, gate * (other - x))
            i *= 2
    return x_j


def _join(graph_conv: MaxRelativeGraphConv, x: Tensor) -> Tensor:
    return torch.cat([x, svga(x, graph_conv.graph_stride)], dim=1)


def _add(branch: Branch, out: Tensor, x: Tensor) -> Tensor:
    return x + branch.drop_path(out)


def _gated(step: ExponentialDecayGating, x: Tensor) -> Tensor:
    return agc(x, step.temperature, step.graph_stride)


# Methods of our modules, and the functions that replace them.
METHODS: tuple[tuple[type, str, Callable], ...] = (
    (ConvNormAct, 'forward', nn.Sequential.forward),
    (MaxRelativeGraphConv, 'join', _join),
    (Branch, 'add', _add),
    (ExponentialDecayGating, 'forward', _gated),
)
# Functions of mobilevig_det.ops, and the functions that replace them.
GRAPH_STEPS: dict[str, Callable] = dict(cross_max=mgc, thresholded_max=dagc)


class _Reference(BaseBackbone):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for module in list(self.modules()):
            for kind, name, function in METHODS:
                if isinstance(module, kind):
                    setattr(module, name, partial(function, module))
            step = getattr(module, 'graph_step', None)
            if isinstance(module, GraphMixer) and isinstance(step, partial):
                function = GRAPH_STEPS[step.func.__name__]
                module.graph_step = partial(function, **step.keywords)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, outs = self.stem(x), []
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else x)
            outs.append(x)
        return tuple(outs)


# Our backbones and their reference implementations, which take the same arguments.
REFERENCES: dict[type[BaseBackbone], type[BaseBackbone]] = {
    cls: type(f'Reference{cls.__name__}', (_Reference, cls), {})
    for cls in (MobileViG, MobileViGv2, GreedyViG, RapidNet, AdaptViG)
}
