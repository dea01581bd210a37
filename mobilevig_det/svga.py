"""The graph step of sparse vision graph attention (SVGA).

Source: MobileViG (CVPRW 2023, arXiv 2307.00395), section 3.1 and algorithm 1.

Rounding is monotone, so the largest of the rounded differences to a set of
neighbours is the rounded difference to the smallest of them. What is left is
a circular sliding minimum along each column and each row, whose windows have
ceil(size / K) members at a step of K.
"""
from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Doublings in a graph exported with a dynamic size, where their number can't
# follow the size: enough for maps of 1024 * K pixels a side.
DYNAMIC_DOUBLINGS = 10
# Elements of the map that are worked on at a time on a CPU: 1 MB of float32.
PART_SIZE = 2**18


def window_min(x: Tensor, stride: int, dim: int) -> Tensor:
    """Circular sliding minimum over every ``stride``-th position of a dim.

    ``out[p] = min over i = 0, stride, 2*stride, ... < size of
    x[(p - i) mod size]``: ceil(size / stride) members a window.

    The minimum of two overlapping windows is the minimum of their union, so
    the window doubles at each step: O(log(size / stride)) passes. This plain
    form is what exporters and tracers see.
    """
    size = x.shape[dim]
    if isinstance(size, torch.SymInt) or torch.onnx.is_in_onnx_export():
        position = torch.arange(size, device=x.device)
        members = position[-1] // stride + 1
        length = torch.ones_like(members)
        for _ in range(DYNAMIC_DOUBLINGS):
            step = torch.minimum(length, members - length)
            other = position - step * stride
            other = torch.where(other < 0, other + size, other)
            x = torch.minimum(x, x.index_select(dim, other))
            length = length + step
        return x
    size = int(size)  # A constant of the graph that torch.jit.trace makes.
    members = -(-size // stride)
    reach = (members - 1) * stride
    # Wrap round once, in front, instead of rolling the map at every step.
    x = torch.cat([x.narrow(dim, size - reach, reach), x], dim)
    for shift in _shifts(members, stride):
        rest = int(x.shape[dim]) - shift
        x = torch.minimum(x.narrow(dim, 0, rest), x.narrow(dim, shift, rest))
    return x


def _shifts(members: int, stride: int) -> Iterator[int]:
    """Shifts that grow a window of 1 member to ``members`` of them."""
    length = 1
    while length < members:
        step = min(length, members - length)
        yield step * stride
        length += step


def _rolled_min(x: Tensor, shift: int, dim: int) -> Tensor:
    """``torch.minimum(x, x.roll(shift, dim))`` without the rolled copy."""
    out, rest = torch.empty_like(x), x.shape[dim] - shift
    for to, other, length in ((shift, 0, rest), (0, rest, shift)):
        torch.minimum(
            x.narrow(dim, to, length),
            x.narrow(dim, other, length),
            out=out.narrow(dim, to, length))
    return out


def _smaller(a: Tensor, b: Tensor, at_a: Optional[Tensor],
             at_b: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
    """Elementwise minimum and, of positions, where it is; ``a`` wins ties."""
    smallest = torch.minimum(a, b)
    if at_a is None:
        return smallest, None
    # A comparison in the maps' own dtype, and lerp by 0 or 1 (exact), are
    # vectorised on CPUs; a boolean mask and torch.where take ten times as
    # long.
    return smallest, torch.lerp(at_a, at_b, smallest.clone().ne_(a))


def _period_min(x: Tensor, stride: int, dim: int, at: Optional[Tensor]
                ) -> Tuple[Tensor, Optional[Tensor]]:  # yapf: disable
    """One period of :func:`window_min`, which repeats along ``dim``, and
    which of the positions ``at`` (broadcast to x), if given, it is from.

    Where the stride divides the size, a window is a whole residue class and
    the period is the stride; else it is the size.
    """
    size = x.shape[dim]
    members = -(-size // stride)
    if size % stride:
        for shift in _shifts(members, stride):
            if at is None:
                x = _rolled_min(x, shift, dim)
            else:  # The pixel itself and those nearer to it win ties.
                x, at = _smaller(x, x.roll(shift, dim), at,
                                 at.roll(shift, dim))
        return x, at
    while members > 1:  # Fold the halves; an odd middle stays in both.
        keep = -(-members // 2) * stride
        halves = [(0, keep), (x.shape[dim] - keep, keep)]
        x, at = _smaller(*(x.narrow(dim, *half) for half in halves),
                         *(at if at is None else at.narrow(dim, *half)
                           for half in halves))  # yapf: disable
        members = keep // stride
    return x, at


def _broadcast(column: Tensor, row: Tensor, height: int,
               width: int) -> Tuple[Tensor, Tensor]:
    """View one period of each, of shapes (B, C, p, W) and (B, C, H, q), so
    that they broadcast to (B, C, H/p, p, W/q, q)."""
    p, q = column.shape[2], row.shape[3]
    return (column.unflatten(3, (width // q, q)).unsqueeze(2),
            row.unflatten(2, (height // p, p)).unsqueeze(4))


def _parts(x: Tensor) -> Iterator:
    """Split (B, C, H, W) into pieces of a few channels on a CPU, where what
    the search makes on its way then stays in the cache and is soon reused:
    fresh memory costs more than the search."""
    if x.device.type != 'cpu':
        yield ...
        return
    batch, channels, height, width = x.shape
    count = max(PART_SIZE // (height * width), 8)
    count = -(-channels // -(-channels // count))  # of equal size
    for i in range(batch):
        for first in range(0, channels, count):
            yield slice(i, i + 1), slice(first, first + count)


def _search(x: Tensor, stride: int, keep: bool) -> Tuple[Tensor, Tensor]:
    """The graph step and, if ``keep``, the position (h * W + w) of each
    pixel's smallest neighbour (else an empty tensor)."""
    height, width = x.shape[-2:]
    out = torch.empty_like(x)
    at = torch.empty(
        x.shape if keep else 0,
        dtype=_index_dtype(height * width),
        device=x.device)
    # Positions are carried as floats: these hold them, and any half.
    wide = torch.promote_types(
        x.dtype, torch.float32 if height * width <= 2**24 else torch.float64)
    position = torch.arange(
        height * width, dtype=wide, device=x.device).view(
            1, 1, height, width) if keep else None
    for part in _parts(x):
        y = x[part]
        z = y.to(wide) if keep else y
        column, at_column = _period_min(z, stride, 2, position)
        row, at_row = _period_min(z, stride, 3, position)
        smallest, found = _smaller(
            *_broadcast(column, row, height, width),
            *(_broadcast(at_column, at_row, height, width) if keep else
              (None, None)))
        if keep:
            at[part] = found.expand(smallest.shape).reshape(y.shape)
        smallest = smallest.reshape(y.shape).to(y.dtype)
        torch.sub(y, smallest, out=out[part])
    return out, at


def _spread(grad: Tensor, at: Tensor) -> Tensor:
    """Gradient of the input from that of the output."""
    # float32 sums: a pixel may be the smallest of very many.
    wide = torch.promote_types(grad.dtype, torch.float32)
    out = torch.empty_like(grad)
    for part in _parts(grad):
        g = grad[part].contiguous().to(wide).flatten(2)
        taken = torch.zeros_like(g).scatter_add_(
            2, at[part].flatten(2).long(), g)
        out[part] = (g - taken).view(at[part].shape)
    return out


def _index_dtype(pixels: int) -> torch.dtype:
    return (torch.int16
            if pixels <= torch.iinfo(torch.int16).max else torch.int32)


if hasattr(torch.library, 'custom_op'):  # torch >= 2.4
    # To torch.compile each is one opaque call, of whatever size: unrolled
    # into its dozens of steps it would take a minute to compile.
    _search = torch.library.custom_op(
        'mobilevig_det::max_relative', _search, mutates_args=())
    _spread = torch.library.custom_op(
        'mobilevig_det::max_relative_backward', _spread, mutates_args=())

    @_search.register_fake
    def _(x, stride, keep):
        return torch.empty_like(x), torch.empty(
            x.shape if keep else 0,
            dtype=_index_dtype(x.shape[-2] * x.shape[-1]),
            device=x.device)

    @_spread.register_fake
    def _(grad, at):
        return torch.empty_like(grad)


class _MaxRelative(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor, stride: int) -> Tensor:
        out, at = _search(x, stride, True)
        ctx.save_for_backward(at)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None]:
        return _spread(grad, *ctx.saved_tensors), None


def max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """Largest difference between each pixel and its graph neighbours.

    Every pixel is joined to each ``stride``-th (K-th) pixel of its row and of
    its column, wrapping round, and to itself:

    ``x_j[h, w] = max(0, max_i x[h, w] - x[(h - i) mod H, w],
    max_i x[h, w] - x[h, (w - i) mod W])``, i = K, 2K, ...

    The result equals that definition to the bit for finite ``x`` of any
    floating dtype (but for the sign of a zero). A NaN makes every pixel
    joined to it NaN; where both a pixel and its smallest neighbour are
    infinite of one sign, the difference is NaN.

    The gradient of a pixel's output goes to the pixel and, negated, to its
    smallest neighbour. Of equal neighbours one gets all of it, on every
    device: one of the column before one of the row; in either the nearest,
    counted upwards (leftwards) from the pixel itself and round, or, where the
    stride divides the size, the one of the upper (left) half each time the
    neighbours are folded in half.
    The sums are of float32 or wider. On CUDA their order, and so their
    rounding, is free unless ``torch.use_deterministic_algorithms`` is on.
    Backward keeps one int16 (int32 above 32,767 pixels) per element, and
    can't itself be differentiated.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format.
        stride (int): Distance K between the neighbours, in pixels.

    Returns:
        Tensor: Same shape, dtype and memory format as ``x``, never negative.
    """
    if is_traced():
        return x - torch.minimum(
            window_min(x, stride, -2), window_min(x, stride, -1))
    if x.requires_grad and torch.is_grad_enabled():
        return _MaxRelative.apply(x, stride)
    return _search(x, stride, False)[0]


def is_traced() -> bool:
    """Whether an exporter is looking, which wants plain operations."""
    return (torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
            or getattr(torch.compiler, 'is_exporting', bool)())
