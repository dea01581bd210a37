"""The graph step of sparse vision graph attention (SVGA).

Source: MobileViG (CVPRW 2023, arXiv 2307.00395), section 3.1 and algorithm 1.

Rounding is monotone, so the largest of the rounded differences to a set of
neighbours is the rounded difference to the smallest of them. What is left is
a circular sliding minimum along each column and each row, whose windows have
ceil(size / K) members at a step of K.
"""
from typing import Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Doublings in a graph exported with a dynamic size, where their number can't
# follow the size: enough for maps of 1024 * K pixels a side (images of 65,536).
DYNAMIC_DOUBLINGS = 10


def window_min(x: Tensor, stride: int, dim: int) -> Tensor:
    """Circular sliding minimum over every ``stride``-th position of a dim.

    ``out[p] = min over i = 0, stride, 2*stride, ... < size of
    x[(p - i) mod size]``: ceil(size / stride) members a window.

    The minimum of two overlapping windows is the minimum of their union, so
    the window doubles at each step: O(log(size / stride)) passes. This plain
    form is what exporters and tracers see.
    """
    size = x.shape[dim]
    members = -(-size // stride)
    if isinstance(size, torch.SymInt) and torch.compiler.is_exporting():
        position = torch.arange(size, device=x.device)
        length = 1
        for _ in range(DYNAMIC_DOUBLINGS):
            step = torch.sym_min(length, members - length)
            x = torch.minimum(
                x, x.index_select(dim, (position - step * stride) % size))
            length = length + step
        return x
    reach = (members - 1) * stride
    # Wrap round once, in front, instead of rolling the map at every step.
    x = torch.cat([x.narrow(dim, size - reach, reach), x], dim)
    for shift in _shifts(members, stride):
        rest = x.shape[dim] - shift
        x = torch.minimum(x.narrow(dim, 0, rest), x.narrow(dim, shift, rest))
    return x


def _shifts(members: int, stride: int):
    """Shifts that grow a window of 1 member to ``members`` of them."""
    length = 1
    while length < members:
        step = min(length, members - length)
        yield step * stride
        length += step


def _period_min(x: Tensor, stride: int, dim: int) -> Tensor:
    """One period of :func:`window_min`, which repeats along ``dim``.

    Where the stride divides the size, a window is a whole residue class and
    the period is the stride; else it is the size.
    """
    size = x.shape[dim]
    if size % stride == 0:
        return x.unflatten(dim, (size // stride, stride)).amin(dim)
    return window_min(x, stride, dim)


def _smaller(a: Tensor, at_a: Tensor, b: Tensor,
             at_b: Tensor) -> Tuple[Tensor, Tensor]:
    """Elementwise minimum, and where it is; ``a`` wins ties."""
    # A comparison in the maps' own dtype, and lerp by 0 or 1 (exact), are
    # vectorised on CPUs; a boolean mask and torch.where take ten times as
    # long.
    smallest = torch.minimum(a, b)
    return smallest, torch.lerp(at_a, at_b, smallest.clone().ne_(a))


def _period_argmin(x: Tensor, at: Tensor, stride: int,
                   dim: int) -> Tuple[Tensor, Tensor]:
    """:func:`_period_min`, and which of ``at`` (broadcast to x) it is from."""
    size = x.shape[dim]
    members = -(-size // stride)
    if size % stride == 0:
        while members > 1:  # Fold the halves; an odd middle stays in both.
            keep = -(-members // 2) * stride
            drop = x.shape[dim] - keep
            x, at = _smaller(
                x.narrow(dim, 0, keep), at.narrow(dim, 0, keep),
                x.narrow(dim, drop, keep), at.narrow(dim, drop, keep))
            members = keep // stride
        return x, at
    reach = (members - 1) * stride
    x = torch.cat([x.narrow(dim, size - reach, reach), x], dim)
    at = torch.cat([at.narrow(dim, size - reach, reach), at], dim)
    for shift in _shifts(members, stride):
        rest = x.shape[dim] - shift
        # The later positions, nearer to the pixel itself, win ties.
        x, at = _smaller(
            x.narrow(dim, shift, rest), at.narrow(dim, shift, rest),
            x.narrow(dim, 0, rest), at.narrow(dim, 0, rest))
    return x, at


def _broadcast(column: Tensor, row: Tensor, height: int,
               width: int) -> Tuple[Tensor, Tensor]:
    """View one period of each, of shapes (B, p, W, C) and (B, H, q, C), so
    that they broadcast to (B, H/p, p, W/q, q, C)."""
    p, q = column.shape[1], row.shape[2]
    return (column.unflatten(2, (width // q, q)).unsqueeze(1),
            row.unflatten(1, (height // p, p)).unsqueeze(3))


class _MaxRelative(torch.autograd.Function):
    """Keeps one integer a pixel for the backward: where the smallest
    neighbour is."""

    @staticmethod
    def forward(ctx, x: Tensor, stride: int) -> Tensor:
        batch, channels, height, width = x.shape
        y = x.permute(0, 2, 3, 1).contiguous()
        if y.dtype in (torch.float16, torch.bfloat16):
            y = y.float()  # Exact; and positions fit.
        if height * width > 2**24:
            y = y.double()  # Positions are carried as floats.
        at = torch.arange(
            height * width, dtype=y.dtype, device=y.device).view(
                1, height, width, 1)
        column, at_column = _period_argmin(y, at, stride, 1)
        row, at_row = _period_argmin(y, at, stride, 2)
        column, row = _broadcast(column, row, height, width)
        at_column, at_row = _broadcast(at_column, at_row, height, width)
        smallest, at = _smaller(column, at_column, row, at_row)
        small = height * width <= torch.iinfo(torch.int16).max
        at = at.to(torch.int16 if small else torch.int32)
        ctx.save_for_backward(at)
        smallest = smallest.reshape(y.shape).permute(0, 3, 1, 2)
        return x - smallest.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None]:
        at, = ctx.saved_tensors
        batch, channels, height, width = grad.shape
        g = grad.permute(0, 2, 3, 1).reshape(batch, -1, channels)
        if g.dtype in (torch.float16, torch.bfloat16):
            g = g.float()  # A pixel can collect from very many.
        at = at.expand(-1,-1,-1,-1,-1,channels).reshape(g.shape).long()
        taken = torch.zeros_like(g).scatter_add_(1, at, g)
        taken = taken.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return grad - taken.to(grad.dtype), None


def max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """Largest difference between each pixel and its graph neighbours.
    """
    height, width = x.shape[-2:]
    tracing = torch.jit.is_tracing() or torch.compiler.is_exporting()
    if tracing or torch.onnx.is_in_onnx_export():
        return x - torch.minimum(
            window_min(x, stride, -2), window_min(x, stride, -1))
    if x.requires_grad and torch.is_grad_enabled():
        return _MaxRelative.apply(x, stride)
    y = x.permute(0, 2, 3, 1).contiguous()
    column, row = _broadcast(
        _period_min(y, stride, 1), _period_min(y, stride, 2), height, width)
    return x - torch.minimum(column, row).reshape(y.shape).permute(0, 3, 1, 2)
