"""The graph step of sparse vision graph attention (SVGA).

Source: MobileViG (CVPRW 2023, arXiv 2307.00395), section 3.1 and algorithm 1.
"""
import torch
from torch import Tensor


def window_min(x: Tensor, stride: int, dim: int) -> Tensor:
    """Circular sliding minimum over every ``stride``-th position of a dim.

    ``out[p] = min over i = 0, stride, 2*stride, ... < size of
    x[(p - i) mod size]``: ceil(size / stride) members a window.

    The minimum of two overlapping windows is the minimum of their union, so
    the window doubles at each step: O(log(size / stride)) passes.
    """
    size = x.shape[dim]
    members = -(-size // stride)
    reach = (members - 1) * stride
    # Wrap round once, in front, instead of rolling the map at every step.
    x = torch.cat([x.narrow(dim, size - reach, reach), x], dim)
    length = 1
    while length < members:
        step = min(length, members - length)
        shift = step * stride
        rest = x.shape[dim] - shift
        x = torch.minimum(x.narrow(dim, 0, rest), x.narrow(dim, shift, rest))
        length += step
    return x


def max_relative(x: Tensor, stride: int = 2) -> Tensor:
    """Largest difference between each pixel and its graph neighbours.

    Every pixel is joined to each ``stride``-th (K-th) pixel of its row and of
    its column, wrapping round, and to itself:

    ``x_j[h, w] = max(0, max_i x[h, w] - x[(h - i) mod H, w],
    max_i x[h, w] - x[h, (w - i) mod W])``, i = K, 2K, ...

    Rounding is monotone, so the largest rounded difference is the rounded
    difference to the smallest neighbour: the result equals that definition to
    the bit, without its (H + W) / K rounds.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W).
        stride (int): Distance K between the neighbours, in pixels.

    Returns:
        Tensor: Same shape and dtype as ``x``, never negative.
    """
    smallest = torch.minimum(
        window_min(x, stride, -2), window_min(x, stride, -1))
    return x - smallest
