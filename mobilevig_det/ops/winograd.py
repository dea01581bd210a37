"""3x3 convolutions in 36 instead of 144 products for each 4x4 outputs.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (CVPR
2016, arXiv 1509.09308), F(4x4, 3x3). The same sums in another order: cuDNN takes
this algorithm by itself, PyTorch's convolutions on CPUs don't. The points are 0,
±1/√2, ±√2 and infinity instead of 0, ±1, ±2: they round half as much.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .channels_last import ChannelsLastConv2d, is_plain_cpu, is_ungrouped
from .sparse_gradient import few_pixels, sparse_gradients, windows_with, with_gradient
from .windows import gather, maps_like, pixel_rows, window_count, window_rows, within

OUT, IN = 4, 6  # sides of a tile of outputs, and of the inputs that it sees
PIECE = 768  # tiles at a time, so that what is made of them stays in the cache
# What is smaller was measured not to gain.
FEWEST_CHANNELS = 96
FEWEST_TILES = 48


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of inputs (36, 36), of weights (36, 9) and back to outputs (16, 36)."""
    a, b = 2**-0.5, 2**0.5
    points = torch.tensor([0, a, -a, b, -b], dtype=torch.float64)
    powers = points[:, None] ** torch.arange(OUT)
    outputs = torch.cat([powers, torch.eye(OUT, dtype=torch.float64)[-1:]]).T
    # Lagrange's polynomials: each is zero at all points but its own.
    inputs, weights = torch.zeros(IN, IN).double(), torch.zeros(IN, 3).double()
    for i, point in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        inputs[i, : IN - 1] = _coefficients(others)
        weights[i] = powers[i, :3] / (point - others).prod()
    inputs[-1], weights[-1, -1] = _coefficients(points), 1
    return tuple(  # type: ignore[return-value]
        torch.kron(m.contiguous(), m.contiguous()).float()
        for m in (inputs, weights, outputs)
    )


def _coefficients(roots: Tensor) -> Tensor:
    """Of the polynomial that has these roots, the constant first."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found


TO_INPUTS, TO_WEIGHTS, TO_OUTPUTS = _transforms()


def _pieces(shape: torch.Size, tiles: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """What tiles (None: all) that are computed together see of the inputs, (tiles,
    36), and where their outputs are, (tiles, 16)."""
    if tiles is None:
        tiles = torch.arange(window_count(shape, OUT))
    for part in tiles.split(PIECE) if len(tiles) else ():
        yield window_rows(shape, part, OUT, IN), window_rows(shape, part, OUT, OUT)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, tiles: Tensor | None = None
) -> Tensor:
    outs, channels = weight.shape[:2]
    kernel = TO_WEIGHTS @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    kernel = kernel.view(IN * IN * outs, channels, 1, 1)
    pixels = pixel_rows(x)
    y = maps_like(x, outs)
    if tiles is not None:
        y.zero_()
    outputs = pixel_rows(y)
    for seen, made in _pieces(x.shape, tiles):
        part = torch.matmul(TO_INPUTS, gather(pixels, seen))
        # 36 matrix products; as a convolution a seventh faster than as torch.bmm.
        part = part.view(1, len(seen), 1, -1).permute(0, 3, 1, 2)
        part = F.conv2d(part, kernel, groups=IN * IN)
        part = part.permute(0, 2, 3, 1).reshape(-1, IN * IN, outs)
        part = torch.matmul(TO_OUTPUTS, part)
        if bias is not None:
            part += bias
        outputs.index_copy_(0, *within(outputs, made, part))
    return y


def _weight_gradient(x: Tensor, grad: Tensor, tiles: Tensor | None = None) -> Tensor:
    channels, outs = x.shape[1], grad.shape[1]
    total = x.new_zeros(IN * IN, channels, outs)
    pixels, grads = pixel_rows(x), pixel_rows(grad)
    for seen, made in _pieces(x.shape, tiles):
        part = torch.matmul(TO_INPUTS, gather(pixels, seen))
        of_part = torch.matmul(TO_OUTPUTS.T, gather(grads, made))
        total.baddbmm_(part.permute(1, 2, 0), of_part.transpose(0, 1))
    weight = TO_WEIGHTS.T @ total.view(IN * IN, -1)
    return weight.view(3, 3, channels, outs).permute(3, 2, 0, 1).contiguous()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        there = with_gradient(grad)
        pixels = few_pixels(there)
        if pixels is not None:
            some = pixel_rows(grad)[pixels]
            return sparse_gradients(x, weight, some, pixels, ctx.needs_input_grad)
        made = seen = None
        if there is not None:  # tiles without a gradient are left out
            made, seen = (windows_with(there, x.shape, OUT, side) for side in (OUT, IN))
        turned = weight.flip(2, 3).transpose(0, 1)
        # The weight's first, for less memory at once.
        weight_gradient = _weight_gradient(x, grad, made) if of_weight else None
        return (
            _convolve(grad, turned, None, seen) if of_x else None,
            weight_gradient,
            grad.sum((0, 2, 3)) if of_bias else None,
        )


def winograd_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` by Winograd's algorithm.

    Rounds about five times as much as the plain sums do (1e-6 of the largest
    output), and a NaN or infinity spreads over the tile of 4 x 4 outputs.

    Args:
        x (Tensor): float32 on a CPU, (B, C, H, W) in any memory format.
        weight (Tensor): (outputs, C, 3, 3).
        bias (Tensor, optional): (outputs, ).

    Returns:
        Tensor: (B, outputs, H, W), channels-last.
    """
    return _Convolution.apply(x, weight, bias)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that takes Winograd's algorithm where that is
    faster: float32 on CPUs, enough channels, enough pixels. Elsewhere, under
    autocast and to exporters and compilers it is its base class."""

    def forward(self, x: Tensor) -> Tensor:
        if self.gains(x):
            return winograd_conv3x3(x, self.weight, self.bias)
        return super().forward(x)

    def gains(self, x: Tensor) -> bool:
        """Whether this map is convolved by Winograd's algorithm."""
        return (
            x.ndim == 4
            and is_plain_cpu(x, self.weight)
            and window_count(x.shape, OUT) >= FEWEST_TILES
        )


def use_winograd(model: nn.Module) -> int:
    """Turn a model's plain 3x3 convolutions into :class:`WinogradConv2d`, and, if it
    has such, the others and its RoIAligns into those of channels-last maps.

    Weights, names, hooks and gradients stay; calling it again does nothing.

    Args:
        model (nn.Module): Any; is changed.

    Returns:
        int: How many convolutions take Winograd's algorithm now that didn't.
    """
    turned = [m for m in model.modules() if _may_gain(m)]
    for module in turned:
        module.__class__ = WinogradConv2d
    if turned:
        from . import detector_layers  # imports MMDetection

        for module in model.modules():
            if is_ungrouped(module):
                module.__class__ = ChannelsLastConv2d
            detector_layers.turn(module)
    return len(turned)


def _may_gain(module: nn.Module) -> bool:
    return (
        is_ungrouped(module)
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.padding_mode == 'zeros'
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
    )
