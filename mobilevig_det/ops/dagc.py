"""The graph step of dynamic axial graph construction (DAGC).

Source: GreedyViG (CVPR 2024, arXiv 2405.06849), section 3.1 and algorithm 1; the
distance is that of the reference implementation, the sum of absolute differences.
"""

import math
from functools import partial

import torch
from torch import Tensor

from ..custom_op import custom_op, export_graph_step, graph_node, is_traced
from .links import (
    Link,
    Strip,
    StrongestLink,
    as_pixels,
    both_axes,
    link_dtype,
    shifted,
    strongest,
)


def _links(x: Tensor, stride: int) -> list[Link]:
    longest = max(int(x.shape[-2]), int(x.shape[-1]))
    return both_axes(x, list(range(stride, longest, stride)))


def threshold(x: Tensor) -> Tensor:
    """Compute the distance below which a neighbour is admitted, for each image.

    It is the mean minus the (unbiased) standard deviation of the L1 distances between
    each pixel and the one half of the image away. NaN for an image of one pixel.

    Args:
        x (Tensor): Feature maps of shape (B, C, H, W), in float32 or wider.

    Returns:
        Tensor: Distances of shape (B,).
    """
    half = [-(-int(n) // 2) for n in x.shape[-2:]]
    distance = (x - torch.roll(x, half, [2, 3])).abs_().sum(1).flatten(1)
    if distance.shape[1] == 1:  # avoids PyTorch's warning
        return torch.full_like(distance[:, 0], math.nan)
    return distance.mean(1) - distance.std(1)


def naive_thresholded_max(x: Tensor, stride: int, slack: float = 0.0) -> Tensor:
    """Compute :func:`thresholded_max` link by link, as it is defined.

    This plain form is what exporters of a fixed size record. ``slack`` is added to the
    threshold.
    """
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    limit = threshold(wide)[:, None, None, None]
    if slack:
        limit = limit + slack
    x_j = x - x
    for link in _links(x, stride):
        distance = (wide - shifted(wide, link)).abs().sum(1, keepdim=True)
        admitted = (distance < limit).to(x.dtype)
        x_j = torch.maximum(x_j, (shifted(x, link) - x) * admitted)
    return x_j


def _fake_search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x)
    dtype = link_dtype(_links(x, stride))
    return out, torch.empty_like(out if keep else x.new_empty(0), dtype=dtype)


@custom_op('thresholded_max', fake=_fake_search)
def _search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Compute the graph step.

    With ``keep``, also return the strongest link of each element, otherwise an empty
    tensor.
    """
    out, winner = _fake_search(x, stride, keep)
    links = _links(x, stride)
    distances: dict[Link, Tensor] = {}

    def admit(
        limit: Tensor, difference: Tensor, scratch: Tensor, number: int, _: Strip
    ):
        """Set the differences of neighbours that aren't near enough to -inf."""
        link = links[number - 1]
        # The same pairs of pixels in the other direction: computed already if K divides
        # the side.
        mirrored = Link(link.dim, difference.shape[link.dim] - link.shift)
        if mirrored.shift < link.shift and mirrored in distances:
            distance = torch.roll(distances[mirrored], link.shift, link.dim)
        else:
            distance = torch.abs(difference, out=scratch).sum(-1, keepdim=True)
            distances[link] = distance
        difference.add_(torch.where(distance < limit, 0.0, -math.inf))

    for i, image in enumerate(x):
        pixels = as_pixels(image)
        limit = threshold(pixels.permute(2, 0, 1)[None])
        if not limit > 0:  # no neighbour is nearer: a single pixel, NaN, infinity
            out[i] = image - image
            winner[i : i + 1] = 0
            continue
        won = winner[i] if keep else None
        distances.clear()
        strongest(pixels, links, out[i], won, partial(admit, limit))
    return out, winner


@graph_node(naive_thresholded_max)
def thresholded_max(x: Tensor, stride: int) -> Tensor:
    """Compute the largest difference of admitted neighbours from a pixel, at least 0.

    ``x_j = max(0, v - x)`` over the neighbours v at i = K, 2K, ... pixels on the
    pixel's column and row, wrapping round, whose L1 distance from the pixel over
    the channels is below the image's :func:`threshold`.

    Equal to that definition for finite ``x`` of any floating dtype, except if a
    distance and the threshold differ by rounding only. If an image has a NaN or
    infinite value, its threshold is not finite: no neighbour is admitted, and only
    these values become NaN. The gradient of a pixel's output goes to its strongest
    neighbour, of equal ones to the first, and, negated, to the pixel; none goes through
    the threshold. For the backward one byte per element (two above 255 neighbours) is
    stored. It can't be differentiated again.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format.
        stride (int): Distance K between the neighbours, in pixels.

    Returns:
        Tensor: x_j, of the same shape, dtype and memory format as ``x``.
    """
    if is_traced():
        return export_graph_step(naive_thresholded_max, x, stride=stride)
    if x.requires_grad and torch.is_grad_enabled():
        return StrongestLink.apply(x, stride, _search, _links(x, stride))
    return _search(x, stride, False)[0]
