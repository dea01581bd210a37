"""The siblings' graph steps and backbones as the authors run them."""

from collections.abc import Callable
from functools import partial

from mobilevig_det.backbones import AdaptViG, GreedyViG, MobileViGv2, RapidNet
from mobilevig_det.backbones.adaptvig import ExponentialDecayGating
from mobilevig_det.backbones.siblings import GraphMixer

import torch
from torch import Tensor

from .authors import AsTheAuthors


def shift(x: Tensor, n: int, dim: int) -> Tensor:
    """Cut and joined; beyond the side x itself."""
    size = x.shape[dim]
    if abs(n) > size:
        return x
    first = size - n if n > 0 else -n
    return torch.cat([x.narrow(dim, first, size - first), x.narrow(dim, 0, first)], dim)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.norm(x - y, p=1, dim=1, keepdim=True)


def mgc(x: Tensor, stride: int) -> Tensor:
    x_j = x - x
    for dim in (2, 3):
        for n in (stride, -stride):
            x_j = torch.max(x_j, shift(x, n, dim) - x)
    return x_j


def dagc(x: Tensor, stride: int) -> Tensor:
    half = shift(shift(x, -(-x.shape[2] // 2), 2), -(-x.shape[3] // 2), 3)
    norm = _distance(x, half)
    mean, std = norm.mean((2, 3), keepdim=True), norm.std((2, 3), keepdim=True)
    x_j = x - x
    for dim in (2, 3):
        for i in range(stride, x.shape[dim], stride):
            other = shift(x, i, dim)
            mask = torch.where(_distance(x, other) < mean - std, 1, 0)
            x_j = torch.max(x_j, (other - x) * mask)
    return x_j


def agc(x: Tensor, temperature: Tensor, stride: int) -> Tensor:
    x_j = x - x
    for dim in (2, 3):
        x_j = torch.max(x_j, shift(x, stride, dim) - x)
    for dim in (2, 3):
        i = 2
        while i <= x.shape[dim]:
            other = shift(x, i, dim)
            gate = torch.exp(-_distance(x, other) / (temperature.abs() + 1e-6))
            x_j = torch.max(x_j, gate * (other - x))
            i *= 2
    return x_j


# Their form of our function of that name.
THEIRS: dict[str, Callable] = dict(cross_max=mgc, thresholded_max=dagc)


class _Siblings(AsTheAuthors):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if not isinstance(module, GraphMixer):
                continue
            step = module.graph_step
            if isinstance(step, ExponentialDecayGating):
                setattr(step, 'forward', partial(_gated, step))  # noqa: B010
            elif isinstance(step, partial):
                module.graph_step = partial(THEIRS[step.func.__name__], **step.keywords)


def _gated(step: ExponentialDecayGating, x: Tensor) -> Tensor:
    return agc(x, step.temperature, step.graph_stride)


class AuthorsMobileViGv2(_Siblings, MobileViGv2):
    """See :class:`.AsTheAuthors`."""


class AuthorsGreedyViG(_Siblings, GreedyViG):
    """See :class:`.AsTheAuthors`."""


class AuthorsRapidNet(_Siblings, RapidNet):
    """See :class:`.AsTheAuthors`."""


class AuthorsAdaptViG(_Siblings, AdaptViG):
    """See :class:`.AsTheAuthors`."""
