"""The graph step of SVGA in Triton: one kernel, and one that gathers the gradient.

Never run on a GPU, only in Triton's interpreter: nothing takes it unless asked to.
What it computes, and which of equal neighbours wins, is as in :mod:`.svga`.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import custom_op
from . import svga

BLOCK = 1024  # pixels of a plane to a program


@functools.cache
def _folding(size: int, stride: int, device: torch.device) -> Tensor | None:
    """In which order the members of a residue class win ties, where the stride
    divides the size: halves are folded on each other, the left one wins."""
    if size % stride:
        return None
    classes = [[i] for i in range(size // stride)]
    while len(classes) > 1:
        keep = -(-len(classes) // 2)
        classes = [a + b for a, b in zip(classes[:keep], classes[-keep:])]
    order = list(dict.fromkeys(classes[0]))
    return torch.tensor(order, dtype=torch.int32, device=device)


@triton.jit
def _neighbour(at, i, size, stride: tl.constexpr, order):
    """The i-th along one axis, of which the first one wins ties."""
    if order is None:
        other = at - i * stride
        other = tl.where(other < 0, other + size, other)
    else:
        other = at % stride + tl.load(order + i) * stride
    return other


@triton.jit
def _search_kernel(
    x, out, at, rows, columns, channels, height, width,
    x_image, x_channel, x_row, x_column,
    out_image, out_channel, out_row, out_column,
    stride: tl.constexpr, wide: tl.constexpr, keep: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    image, channel = plane // channels, plane % channels
    pixel = tl.program_id(1) * block + tl.arange(0, block)
    inside = pixel < height * width
    h, w = pixel // width, pixel % width
    x += image * x_image + channel * x_channel
    here = tl.load(x + h * x_row + w * x_column, mask=inside, other=0).to(wide)
    row, column = _neighbour(h, 0, height, stride, rows), w
    best = tl.load(x + row * x_row + w * x_column, mask=inside, other=0).to(wide)
    where = row * width + w
    for i in range(1, tl.cdiv(height, stride)):
        row = _neighbour(h, i, height, stride, rows)
        other = tl.load(x + row * x_row + w * x_column, mask=inside, other=0).to(wide)
        less = (other < best) | (other != other)  # NaN wins, and stays
        best = tl.where(less, other, best)
        where = tl.where(less, row * width + w, where)
    for i in range(0, tl.cdiv(width, stride)):
        column = _neighbour(w, i, width, stride, columns)
        other = tl.load(x + h * x_row + column * x_column, mask=inside, other=0)
        other = other.to(wide)
        less = (other < best) | (other != other)
        best = tl.where(less, other, best)
        where = tl.where(less, h * width + column, where)
    out += image * out_image + channel * out_channel
    difference = (here - best).to(out.dtype.element_ty)
    tl.store(out + h * out_row + w * out_column, difference, mask=inside)
    if keep:
        at += plane * height * width
        tl.store(at + pixel, where.to(at.dtype.element_ty), mask=inside)


@triton.jit
def _spread_kernel(
    grad, at, out, channels, height, width,
    grad_image, grad_channel, grad_row, grad_column,
    out_image, out_channel, out_row, out_column,
    stride: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    image, channel = plane // channels, plane % channels
    pixel = tl.program_id(1) * block + tl.arange(0, block)
    inside = pixel < height * width
    h, w = pixel // width, pixel % width
    at += plane * height * width
    grad += image * grad_image + channel * grad_channel
    taken = tl.zeros([block], wide)
    # Who may have chosen this pixel: those of its column, then those of its row.
    for i in range(0, tl.cdiv(height, stride)):
        row = h + i * stride
        row = tl.where(row < height, row, row - height)
        chosen = tl.load(at + row * width + w, mask=inside, other=-1)
        g = tl.load(grad + row * grad_row + w * grad_column, mask=inside, other=0)
        taken += tl.where(chosen == pixel, g.to(wide), 0.0)
    for i in range(1, tl.cdiv(width, stride)):
        column = w + i * stride
        column = tl.where(column < width, column, column - width)
        chosen = tl.load(at + h * width + column, mask=inside, other=-1)
        g = tl.load(grad + h * grad_row + column * grad_column, mask=inside, other=0)
        taken += tl.where(chosen == pixel, g.to(wide), 0.0)
    here = tl.load(grad + h * grad_row + w * grad_column, mask=inside, other=0)
    out += image * out_image + channel * out_channel
    result = (here.to(wide) - taken).to(out.dtype.element_ty)
    tl.store(out + h * out_row + w * out_column, result, mask=inside)


def _wide(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[0] * x.shape[1], triton.cdiv(x.shape[2] * x.shape[3], BLOCK)


@custom_op('max_relative_triton', fake=svga._fake_search)
def _search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    out, at = svga._fake_search(x, stride, keep)
    if x.numel():
        height, width = x.shape[2:]
        with torch.cuda.device_of(x):
            _search_kernel[_grid(x)](
                x, out, at, _folding(height, stride, x.device),
                _folding(width, stride, x.device), *x.shape[1:], *x.stride(),
                *out.stride(), stride, _wide(x.dtype), keep, BLOCK,
            )  # fmt: skip
    return out, at


def _fake_spread(grad: Tensor, at: Tensor, stride: int) -> Tensor:
    return torch.empty_like(grad)


@custom_op('max_relative_triton_backward', fake=_fake_spread)
def _spread(grad: Tensor, at: Tensor, stride: int) -> Tensor:
    out = torch.empty_like(grad)
    if grad.numel():
        with torch.cuda.device_of(grad):
            _spread_kernel[_grid(grad)](
                grad, at, out, *grad.shape[1:], *grad.stride(), *out.stride(),
                stride, _wide(grad.dtype), BLOCK,
            )  # fmt: skip
    return out


class _MaxRelative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, stride: int) -> Tensor:
        out, at = _search(x, stride, True)
        ctx.save_for_backward(at)
        ctx.stride = stride
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _spread(grad, *ctx.saved_tensors, ctx.stride), None


def max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """:func:`.svga.max_relative` with tensors on CUDA, in one kernel.

    Equal to it, to the bit, as is what it keeps; of the gradient the order of the
    sums is fixed. On CPUs and to exporters it is that function.
    """
    if not x.is_cuda or svga.is_traced():
        return svga.max_relative(x, stride)
    if x.requires_grad and torch.is_grad_enabled():
        return _MaxRelative.apply(x, stride)
    return _search(x, stride, False)[0]
