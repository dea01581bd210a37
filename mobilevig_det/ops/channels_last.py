"""Convolutions of channels-last maps, on CPUs.

What lies around Winograd's convolutions, whose maps are channels-last: a map in the
usual format on the way is copied at each border, and so is its gradient.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..custom_op import is_traced


def is_plain_cpu(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether this is float32 on a CPU, and neither autocast nor a compiler nor an
    exporter wants the plain operator."""
    compiling = getattr(torch.compiler, 'is_compiling', bool)  # torch >= 2.2
    return (
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and (weight is None or weight.dtype == torch.float32)
        and not is_traced()
        and not compiling()
        and not _under_autocast()
    )


def _under_autocast() -> bool:
    if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution whose maps are channels-last, in float32 on CPUs. Elsewhere, under
    autocast and to exporters and compilers it is its base class."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and is_plain_cpu(x, self.weight):
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)


def is_ungrouped(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether this is a plain convolution that has not been turned yet."""
    return type(module) is nn.Conv2d and module.groups == 1
