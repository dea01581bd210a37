"""The graph step of sparse vision graph attention (SVGA).

Source: MobileViG (CVPRW 2023, arXiv 2307.00395), section 3.1 and algorithm 1.

Rounding is monotone, so the largest of the rounded differences to a set of neighbours
is the rounded difference to the smallest of them. The step is therefore a circular
sliding minimum along each column and each row, whose windows have ceil(size / K)
members at a step of K.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import custom_op, graph_node, is_traced

# Doublings in a graph that is exported with a dynamic size, where their number can't
# depend on the size: enough for maps of 1024 * K pixels a side.
DYNAMIC_DOUBLINGS = 10
# Elements that are computed together on a CPU: 2 MB of float32.
PART_SIZE = 2**19
# A dtype of each size in bytes.
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def window_min(x: Tensor, stride: int, dim: int) -> Tensor:
    """Compute the circular sliding minimum over every ``stride``-th position of a dim.

    ``out[p] = min over i = 0, stride, 2*stride, ... < size of x[(p - i) mod size]``:
    ceil(size / stride) members per window.

    The minimum of two overlapping windows is the minimum of their union, so the window
    doubles at each step: O(log(size / stride)) passes. This plain form is what
    exporters and tracers record.

    Args:
        x (Tensor): Of any shape.
        stride (int): Step between the members of a window.
        dim (int): Dimension of the windows.

    Returns:
        Tensor: Of the same shape and dtype as ``x``.
    """
    size = x.shape[dim]
    if _is_dynamic(size):
        position = torch.arange(size, device=x.device)
        count = position[-1] // stride + 1
        length = torch.ones_like(count)
        for _ in range(DYNAMIC_DOUBLINGS):
            step = torch.minimum(length, count - length)
            other = position - step * stride
            other = torch.where(other < 0, other + size, other)
            x = torch.minimum(x, x.index_select(dim, other))
            length = length + step
        return x
    size = int(size)  # a constant in the graph of torch.jit.trace
    members = -(-size // stride)
    if members == 1:  # some runtimes for phones refuse an empty piece
        return x
    reach = (members - 1) * stride
    # Pad with the wrapped part once, instead of rolling the map at every step.
    x = torch.cat([x.narrow(dim, size - reach, reach), x], dim)
    for shift in _shifts(members, stride):
        rest = int(x.shape[dim]) - shift
        x = torch.minimum(x.narrow(dim, 0, rest), x.narrow(dim, shift, rest))
    return x


def naive_max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """Compute :func:`max_relative` neighbour by neighbour, as TorchScript compiles."""
    smallest = x
    for dim in (-2, -1):
        for shift in range(stride, x.shape[dim], stride):
            smallest = torch.minimum(smallest, torch.roll(x, shift, dim))
    return x - smallest


def _is_dynamic(size: int | torch.SymInt | Tensor) -> bool:
    """Return whether an exporter records a graph for other sizes than this one."""
    if isinstance(size, torch.SymInt):
        return True
    # The older ONNX exporter, based on torch.jit.trace, doesn't tell which sizes are
    # fixed. With torch.export a size is fixed if it is an int.
    return torch.onnx.is_in_onnx_export() and torch.jit.is_tracing()


def _shifts(members: int, stride: int) -> Iterator[int]:
    """Yield the shifts that grow a window of 1 member to ``members`` members."""
    length = 1
    while length < members:
        step = min(length, members - length)
        yield step * stride
        length += step


class _Smallest(NamedTuple):
    """Smallest values so far and, optionally, their positions."""

    value: Tensor
    at: Tensor | None

    @classmethod
    def empty(cls, like: Tensor, keep: bool) -> '_Smallest':
        return cls(torch.empty_like(like), torch.empty_like(like) if keep else None)

    def each(self, function: Callable[..., Tensor], *args) -> '_Smallest':
        """Apply ``function(t, *args)`` to both."""
        value, at = self
        return _Smallest(
            function(value, *args), None if at is None else function(at, *args)
        )


def _smaller(a: _Smallest, b: _Smallest, out: _Smallest) -> None:
    """Write the elementwise minimum to ``out``; ``a`` wins ties."""
    torch.minimum(a.value, b.value, out=out.value)
    if not (a.at is None or b.at is None or out.at is None):
        # A comparison that writes the maps' own dtype, and lerp by 0 or 1 (exact), are
        # vectorised on CPUs; a boolean mask and torch.where take ten times as long.
        torch.ne(out.value, a.value, out=out.at)
        torch.lerp(a.at, b.at, out.at, out=out.at)


def _period_min(
    x: _Smallest, stride: int, dim: int, spare: list[_Smallest]
) -> _Smallest:
    """Compute one period of :func:`window_min`, which repeats along ``dim``.

    If the stride divides the size, a window is a complete residue class and the period
    is the stride. Otherwise the period is the size, and the result is one of ``spare``,
    of which two are used and the other one remains.
    """
    size = x.value.shape[dim]
    members = -(-size // stride)
    if size % stride:
        for i, shift in enumerate(_shifts(members, stride)):
            out, rest = spare.pop(), size - shift
            # The pixel itself and nearer pixels win ties.
            for to, other, length in ((shift, 0, rest), (0, rest, shift)):
                _smaller(
                    x.each(Tensor.narrow, dim, to, length),
                    x.each(Tensor.narrow, dim, other, length),
                    out.each(Tensor.narrow, dim, to, length),
                )
            if i > 0:
                spare.append(x)
            x = out
        return x
    while members > 1:  # Fold the halves; an odd middle stays in both.
        keep = -(-members // 2) * stride
        a = x.each(Tensor.narrow, dim, 0, keep)
        b = x.each(Tensor.narrow, dim, x.value.shape[dim] - keep, keep)
        x = _Smallest.empty(a.value, x.at is not None)
        _smaller(a, b, x)
        members = keep // stride
    return x


def _repeated(row: Tensor, width: int) -> Tensor:
    """Repeat (B, C, H, q) to (B, C, H, width) by copying q elements at once.

    This needs a contiguous tensor and a dtype of the size of q elements.

    A broadcast along so short a last dim is slow on CPUs. As elements of the other
    dtype, q elements are copied at once.
    """
    word = WORDS.get(row.shape[3] * row.element_size())
    if not (word and row.is_contiguous() and row.shape[3] < width and row.numel()):
        return row
    # Flattened, because a dim of size 1 may have any stride.
    words = row.flatten().view(word).view(*row.shape[:3], 1)
    count = width // row.shape[3]
    return words.expand(-1, -1, -1, count).contiguous().view(row.dtype)


def _grid(x: Tensor, p: int, q: int) -> Tensor:
    """View (B, C, H, W) as (B, C, H/p, p, W/q, q).

    One period of p rows or of q columns can be broadcast to it.
    """
    return x.unflatten(3, (-1, q)).unflatten(2, (-1, p))


def _parts(x: Tensor, size: int) -> Iterator:
    """Split (B, C, H, W) into pieces of about ``size`` elements, a few channels each.

    Only on a CPU, where the intermediate maps of a piece then stay in the cache.
    """
    if x.device.type != 'cpu' or x.numel() <= size:
        yield ...
        return
    batch, channels, height, width = x.shape
    count = max(size // (height * width), 8)
    count = -(-channels // -(-channels // count))  # of equal size
    for i in range(batch):
        for first in range(0, channels, count):
            yield slice(i, i + 1), slice(first, first + count)


def _fake_search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    pixels = x.shape[-2] * x.shape[-1]
    dtype = torch.int16 if pixels <= torch.iinfo(torch.int16).max else torch.int32
    return torch.empty_like(x), x.new_empty(x.shape if keep else 0, dtype=dtype)


# For torch.compile forward and backward are one opaque call each, of any size: unrolled
# into their dozens of steps they would take a minute to compile.
@custom_op('max_relative', fake=_fake_search)
def _search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Compute the graph step.

    With ``keep``, also return the position (h * W + w) of each pixel's smallest
    neighbour, otherwise an empty tensor.
    """
    height, width = x.shape[-2:]
    out, at = _fake_search(x, stride, keep)
    # Positions are stored as floats of this dtype, which represents them and the values
    # of any half type exactly.
    wide = torch.promote_types(
        x.dtype, torch.float32 if height * width <= 2**24 else torch.float64
    )
    parts = list(_parts(x, PART_SIZE // 2 if keep else PART_SIZE))
    first = x[parts[0]].to(wide if keep else x.dtype)
    # Memory that is reused stays in the cache, and the system doesn't have to clear it.
    spares = [
        _Smallest.empty(first, keep)
        for _ in range(1 + bool(height % stride) + bool(width % stride))
    ]
    position = (
        torch.empty_like(first).copy_(
            torch.arange(height * width, device=x.device).view(height, width)
        )
        if keep
        else None
    )
    for part in parts:
        y = x[part]
        z = y.to(first.dtype)
        start, spare = _Smallest(z, position), list(spares)
        if y.shape != first.shape:  # the last piece
            start, *spare = (
                m.each(Tensor.narrow, 1, 0, y.shape[1]) for m in (start, *spare)
            )
        column = _period_min(start, stride, 2, spare)
        row = _period_min(start, stride, 3, spare).each(_repeated, width)
        found = spare.pop()
        p, q = column.value.shape[2], row.value.shape[3]
        _smaller(*(m.each(_grid, p, q) for m in (column, row, found)))
        if found.at is not None:
            at[part] = found.at
        torch.sub(y, found.value.to(y.dtype), out=out[part])
    return out, at


@custom_op('max_relative_backward', fake=lambda grad, at: torch.empty_like(grad))
def _spread(grad: Tensor, at: Tensor) -> Tensor:
    """Compute the gradient of the input from that of the output."""
    # In float32: a pixel may be the smallest neighbour of very many.
    wide = torch.promote_types(grad.dtype, torch.float32)
    out = torch.empty_like(grad)
    for part in _parts(grad, PART_SIZE // 2):
        g = grad[part].contiguous().to(wide).flatten(2)
        taken = torch.zeros_like(g).scatter_add_(2, at[part].flatten(2).long(), g)
        out[part] = (g - taken).view(at[part].shape)
    return out


class _MaxRelative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, stride: int) -> Tensor:
        out, at = _search(x, stride, True)
        ctx.save_for_backward(at)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _spread(grad, *ctx.saved_tensors), None


@graph_node(naive_max_relative)
def max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """Compute the largest difference between each pixel and its graph neighbours.

    Every pixel is joined to each ``stride``-th (K-th) pixel of its row and of
    its column, wrapping round, and to itself:

    ``x_j[h, w] = max(0, max_i x[h, w] - x[(h - i) mod H, w],
    max_i x[h, w] - x[h, (w - i) mod W])``, i = K, 2K, ...

    The result is bit-identical to that definition for finite ``x`` of any floating
    dtype (except for the sign of a zero). A NaN makes every pixel that is joined to it
    NaN; if a pixel and its smallest neighbour are infinite with the same sign, the
    difference is NaN.

    The gradient of a pixel's output goes to the pixel and, negated, to its smallest
    neighbour. Of equal neighbours the same one gets all of it on every device: one of
    the column before one of the row; in either the nearest, counted upwards (leftwards)
    from the pixel itself and wrapping round, or, if the stride divides the size, the
    one of the upper (left) half each time the neighbours are folded in half.

    Gradients are summed in float32 or wider. On CUDA the order of the sums, and so
    their rounding, is undefined unless ``torch.use_deterministic_algorithms`` is on.
    For the backward one int16 (int32 above 32,767 pixels) per element is stored. It
    can't be differentiated again.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format.
        stride (int): Distance K between the neighbours, in pixels.

    Returns:
        Tensor: x_j, of the same shape, dtype and memory format as ``x``, at least 0.
    """
    if is_traced():
        return x - torch.minimum(window_min(x, stride, -2), window_min(x, stride, -1))
    if x.requires_grad and torch.is_grad_enabled():
        return _MaxRelative.apply(x, stride)
    return _search(x, stride, False)[0]
