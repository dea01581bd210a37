"""Convolutions of channels-last maps, on CPUs.

What lies around Winograd's convolutions, whose maps are channels-last: a map in the
usual format on the way is copied at each border, and so is its gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .sparse_gradient import few_pixels, sparse_gradients, with_gradient
from .svga import is_traced
from .windows import pixel_rows


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


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution, with :mod:`.sparse_gradient`'s backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        pixels = few_pixels(with_gradient(grad))
        if pixels is not None:
            some = pixel_rows(grad)[pixels]
            return sparse_gradients(x, weight, some, pixels, needed)
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)] if needed[2] else None,
            [1, 1], [0, 0], [1, 1], False, [0, 0], 1, needed,
        )  # fmt: skip


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution whose maps are channels-last, in float32 on CPUs. Elsewhere, under
    autocast and to exporters and compilers it is its base class."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or not is_plain_cpu(x, self.weight):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if (
            torch.is_grad_enabled()
            and self.kernel_size == self.stride == (1, 1)
            and self.padding == (0, 0)
        ):
            return _Pointwise.apply(x, self.weight, self.bias)
        return super().forward(x)


def is_ungrouped(module: nn.Module) -> bool:
    """Whether this is a plain convolution that has not been turned yet."""
    return type(module) is nn.Conv2d and module.groups == 1
