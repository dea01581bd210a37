"""The strongest of many links of a pixel, and where a gradient goes from there.

What the graph steps of MobileViG's siblings have in common. A link leads from a
pixel to the one ``shift`` pixels before it on its column or its row, wrapping
round; its strength is neighbour minus pixel, perhaps gated by their distance. One
link's maps are gone when the next one's are made: only the number of the strongest
is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Elements that are worked on at a time on a CPU, which keeps them in the cache.
PART_SIZE = 2**18
Strip = tuple[slice, slice]


class Link(NamedTuple):
    """To ``x[(p - shift) mod side]``, along dim 0 (a column) or 1 (a row)."""

    dim: int
    shift: int


def both_axes(x: Tensor, shifts: Sequence[int]) -> list[Link]:
    """Links of these shifts on maps (B, C, H, W), those along columns first.

    None as long as its axis, which leads to the pixel itself, and none longer: the
    authors' code makes no shift of these."""
    return [
        Link(dim, shift)
        for dim, side in enumerate(x.shape[-2:])
        for shift in shifts
        if abs(shift) < side
    ]


def shifted(x: Tensor, link: Link) -> Tensor:
    """Each pixel's neighbour, of maps (B, C, H, W)."""
    return torch.roll(x, link.shift, link.dim + 2)


def as_pixels(image: Tensor) -> Tensor:
    """(C, H, W) as (H, W, C), in float32 or wider, on CPUs laid out so."""
    x = image.permute(1, 2, 0)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.contiguous() if x.device.type == 'cpu' else x


def link_dtype(links: Sequence[Link]) -> torch.dtype:
    """Of the links' numbers, from 1."""
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
    """A shifted axis in two: where each begins, its source, its length."""
    shift = link.shift % side
    return (shift, 0, side - shift), (0, side - shift, shift)


def _subtract(x: Tensor, link: Link, out: Tensor) -> None:
    for to, source, length in pieces(link, x.shape[link.dim]):
        torch.sub(
            x.narrow(link.dim, source, length),
            x.narrow(link.dim, to, length),
            out=out.narrow(link.dim, to, length),
        )


def strongest(
    x: Tensor,
    links: Sequence[Link],
    best: Tensor,
    winner: Tensor | None = None,
    gate: Callable[[Tensor, Tensor, int, Strip], None] | None = None,
) -> None:
    """``max(0, neighbour - x over the links)`` of pixels (H, W, C).

    Args:
        x (Tensor): See :func:`as_pixels`.
        links (Sequence[Link]): Numbered from 1; those of dim 0 first.
        best (Tensor): Filled with the result: of x's shape.
        winner (Tensor, optional): Filled with the number of the first link that
            is strongest, 0 where none is above 0: of x's shape.
        gate (Callable, optional): ``gate(difference, scratch, number, strip)``
            changes the differences of a link in place.
    """
    best.zero_()
    if winner is not None:
        winner.zero_()
    for dim in (0, 1):
        if all(link.dim != dim for link in links):
            continue
        for strip in _strips(x, dim):
            part = x[strip].contiguous()
            top = torch.empty_like(part).copy_(best[strip])
            # Carried as floats: comparisons into them are vectorised on CPUs, a
            # boolean mask takes twenty times as long. A later winner's number is
            # the larger one.
            won = None if winner is None else winner[strip].to(x.dtype)
            difference, scratch = torch.empty_like(part), torch.empty_like(part)
            for number, link in enumerate(links, 1):
                if link.dim != dim:
                    continue
                _subtract(part, link, difference)
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
    """Gradient of ``x`` from that of :func:`strongest`, both (H, W, C).

    Args:
        grad (Tensor): See :func:`as_pixels`.
        winner (Tensor): As :func:`strongest` filled it.
        links (Sequence[Link]): The same ones.
        gate (Callable, optional): ``gate(grad, number, strip, difference)`` makes,
            in place, of the gradient of a gated difference that of the
            difference, which it gets by calling the last.
        x (Tensor, optional): The pixels, for ``gate``.
    """
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
                    difference = _Difference(x[strip], link)
                    gate(to_link, number, strip, difference)
                total.sub_(to_link)
                for to, source, length in pieces(link, part.shape[dim]):
                    total.narrow(dim, source, length).add_(
                        to_link.narrow(dim, to, length)
                    )
    return out


def spread_images(grad: Tensor, winner: Tensor, links: Sequence[Link]) -> Tensor:
    """:func:`spread` without gates, of maps (B, C, H, W)."""
    out = torch.empty_like(grad)
    for i, image in enumerate(grad):
        won = winner[i].permute(1, 2, 0)
        out[i] = spread(as_pixels(image), won, links).permute(2, 0, 1)
    return out


class _Difference:
    """Neighbour minus pixel, once it is asked for."""

    def __init__(self, x: Tensor, link: Link) -> None:
        self.x, self.link = x, link

    def __call__(self) -> Tensor:
        out = torch.empty_like(self.x)
        _subtract(self.x, self.link, out)
        return out
