"""The graph step of mobile graph convolution (MGC).

Source: MobileViGv2, Scaling Graph Convolutions for Mobile Vision (CVPRW 2024,
arXiv 2406.05850), section 3.1.
"""

import torch
from torch import Tensor

from ..custom_op import custom_op, export_graph_step, graph_node, is_traced
from .links import Link, StrongestLink, as_pixels, both_axes, pieces, shifted, strongest


def _links(x: Tensor, stride: int) -> list[Link]:
    return both_axes(x, [stride, -stride])


def naive_cross_max(x: Tensor, stride: int) -> Tensor:
    """Compute :func:`cross_max` link by link, as it is defined.

    This plain form is what exporters of a fixed size record.
    """
    x_j = x - x
    for link in _links(x, stride):
        x_j = torch.maximum(x_j, shifted(x, link) - x)
    return x_j


def _fake_search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x)
    return out, torch.empty_like(out if keep else x.new_empty(0), dtype=torch.uint8)


@custom_op('cross_max', fake=_fake_search)
def _search(x: Tensor, stride: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Compute the graph step.

    With ``keep``, also return the strongest link of each element, otherwise an empty
    tensor.
    """
    out, winner = _fake_search(x, stride, keep)
    links = _links(x, stride)
    if keep:
        for i, image in enumerate(x):
            strongest(as_pixels(image), links, out[i], winner[i])
        return out, winner
    # Rounding is monotone: the largest difference is that to the largest neighbour.
    out.copy_(x)
    for link in links:
        dim = link.dim + 2
        for to, source, length in pieces(link, x.shape[dim]):
            best = out.narrow(dim, to, length)
            torch.maximum(best, x.narrow(dim, source, length), out=best)
    return out.sub_(x), winner


@graph_node(naive_cross_max)
def cross_max(x: Tensor, stride: int) -> Tensor:
    """Compute the largest difference of four neighbours from a pixel, at least 0.

    ``x_j = max(0, S(x, n) - x)`` over the columns and the rows and n = K, -K, where S
    shifts by n pixels, wrapping round; shifts of a side or more are left out.

    Bit-identical to that definition for finite ``x`` of any floating dtype. The
    gradient of a pixel's output goes to its strongest neighbour, of equal ones to the
    first, and, negated, to the pixel. For the backward one byte per element is stored.
    It can't be differentiated again.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format.
        stride (int): Distance K of the neighbours, in pixels.

    Returns:
        Tensor: x_j, of the same shape, dtype and memory format as ``x``.
    """
    if is_traced():
        return export_graph_step(naive_cross_max, x, stride=stride)
    if x.requires_grad and torch.is_grad_enabled():
        return StrongestLink.apply(x, stride, _search, _links(x, stride))
    return _search(x, stride, False)[0]
