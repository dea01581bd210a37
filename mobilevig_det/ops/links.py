"""Search for the strongest link of each pixel, and its gradient.

Shared by the graph steps MGC, DAGC and AGC. A link leads from a pixel to the one
``shift`` pixels before it on its column or its row, wrapping round; its strength is
neighbour minus pixel, possibly gated by their distance. The maps of a link are freed
before those of the next are made: only the number of the strongest link is stored.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import custom_op

# Elements that are computed together on a CPU, so that they stay in its cache.
PART_SIZE = 2**18
Strip = tuple[slice, slice]


class Link(NamedTuple):
    """Link to ``x[(p - shift) mod side]``, along dim 0 (a column) or 1 (a row)."""

    dim: int
    shift: int


def both_axes(x: Tensor, shifts: list[int]) -> list[Link]:
    """Return the links of these shifts on maps (B, C, H, W), along columns first.

    Shifts of the side or more are left out, as in the reference implementation.
    """
    links: list[Link] = []
    for dim in (0, 1):
        for shift in shifts:
            if abs(shift) < x.shape[dim - 2]:
                links.append(Link(dim, shift))
    return links


def shifted(x: Tensor, link: Link) -> Tensor:
    """Return the neighbour of each pixel of maps (B, C, H, W)."""
    return torch.roll(x, link.shift, link.dim + 2)


def as_pixels(image: Tensor) -> Tensor:
    """Return (C, H, W) as (H, W, C) in float32 or wider, contiguous on CPUs."""
    x = image.permute(1, 2, 0)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.contiguous() if x.device.type == 'cpu' else x


def link_dtype(links: Sequence[Link]) -> torch.dtype:
    """Return the dtype of the links' numbers, which count from 1."""
    return torch.uint8 if len(links) <= 255 else torch.int16


def _strips(x: Tensor, dim: int) -> Iterator[Strip]:
    """Cut (H, W, C) into strips along ``dim``."""
    whole, across = slice(None), x.shape[1 - dim]
    count = across
    if x.device.type == 'cpu':
        count = max(PART_SIZE * across // max(x.numel(), 1), 1)
    for first in range(0, across, count):
        part = slice(first, first + count)
        yield (whole, part) if dim == 0 else (part, whole)


def pieces(link: Link, side: int) -> tuple[tuple[int, int, int], ...]:
    """Split a shifted axis in two pieces of (start, start of the source, length)."""
    shift = link.shift % side
    return (shift, 0, side - shift), (0, side - shift, shift)


def _difference(x: Tensor, link: Link, out: Tensor | None = None) -> Tensor:
    """Compute neighbour minus pixel, of pixels (H, W, C)."""
    out = torch.empty_like(x) if out is None else out
    for to, source, length in pieces(link, x.shape[link.dim]):
        torch.sub(
            x.narrow(link.dim, source, length),
            x.narrow(link.dim, to, length),
            out=out.narrow(link.dim, to, length),
        )
    return out


def strongest(
    x: Tensor,
    links: Sequence[Link],
    best: Tensor,
    winner: Tensor | None = None,
    gate: Callable[[Tensor, Tensor, int, Strip], None] | None = None,
) -> None:
    """Compute ``max(0, neighbour - x over the links)`` of pixels (H, W, C).

    Args:
        x (Tensor): Pixels, from :func:`as_pixels`.
        links (Sequence[Link]): Links, numbered from 1; those of dim 0 first.
        best (Tensor): Is filled with the result; of shape (C, H, W).
        winner (Tensor, optional): Is filled with the number of the first strongest
            link, or 0 if none is above 0; of shape (C, H, W).
        gate (Callable, optional): Called as ``gate(difference, scratch, number,
            strip)``, changes the differences of a link in place.
    """
    best = best.zero_().permute(1, 2, 0)
    if winner is not None:
        winner = winner.zero_().permute(1, 2, 0)
    for dim in (0, 1):
        if all(link.dim != dim for link in links):
            continue
        for strip in _strips(x, dim):
            part = x[strip].contiguous()
            top = torch.empty_like(part).copy_(best[strip])
            # As floats: comparisons that write floats are vectorised on CPUs, a
            # boolean mask takes twenty times as long. The numbers of later winners are
            # larger.
            won = None if winner is None else winner[strip].to(x.dtype)
            difference, scratch = torch.empty_like(part), torch.empty_like(part)
            for number, link in enumerate(links, 1):
                if link.dim != dim:
                    continue
                _difference(part, link, difference)
                if gate is not None:
                    gate(difference, scratch, number, strip)
                if won is not None:
                    torch.gt(difference, top, out=scratch)
                    torch.maximum(won, scratch.mul_(number), out=won)
                torch.maximum(top, difference, out=top)
            best[strip] = top
            if winner is not None and won is not None:
                winner[strip] = won


def spread(
    grad: Tensor,
    winner: Tensor,
    links: Sequence[Link],
    gate: Callable[[Tensor, int, Strip, Callable[[], Tensor]], None] | None = None,
    x: Tensor | None = None,
) -> Tensor:
    """Compute the gradient of ``x`` from that of :func:`strongest`.

    Args:
        grad (Tensor): Gradient of the result, of shape (C, H, W).
        winner (Tensor): Numbers of the strongest links, from :func:`strongest`.
        links (Sequence[Link]): The links that :func:`strongest` had.
        gate (Callable, optional): Called as ``gate(grad, number, strip,
            get_difference)``, turns the gradient of a gated difference into that of the
            difference, in place.
        x (Tensor, optional): Pixels, from :func:`as_pixels`, for ``gate``.

    Returns:
        Tensor: Gradient of ``x``, of shape (C, H, W).
    """
    grad, winner = as_pixels(grad), winner.permute(1, 2, 0)
    out = torch.zeros_like(grad)
    for dim in (0, 1):
        for strip in _strips(grad, dim):
            part, total = grad[strip], out[strip]
            won, to_link = winner[strip].to(grad.dtype), torch.empty_like(part)
            for number, link in enumerate(links, 1):
                if link.dim != dim:
                    continue
                torch.eq(won, number, out=to_link).mul_(part)
                if gate is not None and x is not None:
                    gate(to_link, number, strip, partial(_difference, x[strip], link))
                total.sub_(to_link)
                for to, source, length in pieces(link, part.shape[dim]):
                    total.narrow(dim, source, length).add_(
                        to_link.narrow(dim, to, length)
                    )
    return out.permute(2, 0, 1)


@custom_op('strongest_backward', fake=lambda grad, *_: torch.empty_like(grad))
def _strongest_backward(
    grad: Tensor, winner: Tensor, dims: list[int], shifts: list[int]
) -> Tensor:
    """Apply :func:`spread` without gates to maps (B, C, H, W)."""
    links = [Link(dim, shift) for dim, shift in zip(dims, shifts)]
    out = torch.empty_like(grad)
    for i, image in enumerate(grad):
        out[i] = spread(image, winner[i], links)
    return out


class StrongestLink(torch.autograd.Function):
    """A graph step with gradients, without gates.

    ``search(x, stride, True)`` returns the result for maps (B, C, H, W), and the
    number of each element's strongest link.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, stride: int, search: Callable, links: list[Link]
    ) -> Tensor:
        """Run the search, and keep the strongest link of each element."""
        out, winner = search(x, stride, True)
        ctx.save_for_backward(winner)
        ctx.links = [link.dim for link in links], [link.shift for link in links]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give each gradient to the end of the strongest link."""
        return _strongest_backward(grad, *ctx.saved_tensors, *ctx.links), *[None] * 3
