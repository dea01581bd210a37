"""The graph step of adaptive graph convolution (AGC).

Source: AdaptViG (WACV 2026, arXiv 2511.09942), section 3.1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..custom_op import custom_op, export_graph_step, graph_node, is_traced
from .links import Link, Strip, as_pixels, both_axes, shifted, spread, strongest

EPS = 1e-6  # added to the temperature


def _links(x: Tensor, stride: int) -> list[Link]:
    """Return the links; those of shift K have no gate.

    A gated link of the same shift would never win, because a gate is at most 1: it is
    left out.
    """
    longest = max(int(x.shape[-2]), int(x.shape[-1]))
    shifts, power = [stride], 2
    while power < longest:
        if power != stride:
            shifts.append(power)
        power *= 2
    return both_axes(x, sorted(shifts))


def naive_gated_max(
    x: Tensor, temperature: Tensor, stride: int, eps: float = EPS
) -> Tensor:
    """Compute :func:`gated_max` link by link, as it is defined.

    This plain form is what exporters of a fixed size record.
    """
    scale = temperature.abs() + eps
    x_j = x - x
    for link in _links(x, stride):
        difference = shifted(x, link) - x
        if link.shift != stride:
            wide = torch.promote_types(x.dtype, torch.float32)
            distance = difference.to(wide).abs().sum(1, keepdim=True)
            difference = (torch.exp(-distance / scale) * difference).to(x.dtype)
        x_j = torch.maximum(x_j, difference)
    return x_j


def _fake_search(
    x: Tensor, temperature: Tensor, stride: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty_like(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    links = len(_links(x, stride)) if keep else 0
    return (
        out,
        torch.empty_like(out if keep else x.new_empty(0), dtype=torch.uint8),
        torch.empty((len(x), links, *x.shape[-2:]), dtype=wide, device=x.device),
    )


@custom_op('gated_max', fake=_fake_search)
def _search(
    x: Tensor, temperature: Tensor, stride: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the graph step.

    With ``keep``, also return the strongest link of each element and the distances of
    the gated links, otherwise empty tensors.
    """
    out, winner, distances = _fake_search(x, temperature, stride, keep)
    links, scale = _links(x, stride), temperature.abs() + EPS

    def gate(
        store: Tensor, difference: Tensor, scratch: Tensor, number: int, strip: Strip
    ) -> None:
        """Gate the differences of a link in place, and store its distances."""
        if links[number - 1].shift == stride:
            return
        distance = torch.abs(difference, out=scratch).sum(-1, keepdim=True)
        if keep:
            store[number - 1][strip] = distance[..., 0]
        difference.mul_(torch.exp(-distance / scale))

    for i, image in enumerate(x):
        won = winner[i] if keep else None
        strongest(as_pixels(image), links, out[i], won, partial(gate, distances[i]))
    return out, winner, distances


def _fake_spread(grad, x, temperature, winner, distances, stride):
    return torch.empty_like(grad), torch.empty_like(temperature)


@custom_op('gated_max_backward', fake=_fake_spread)
def _spread(
    grad: Tensor,
    x: Tensor,
    temperature: Tensor,
    winner: Tensor,
    distances: Tensor,
    stride: int,
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(grad)
    links, scale = _links(x, stride), temperature.abs() + EPS
    to_scale = distances.new_zeros(())

    def ungate(
        stored: Tensor, grad: Tensor, number: int, strip: Strip, get: Callable
    ) -> None:
        """Turn the gradient of gate * difference into that of the difference, in place.

        With gate = exp(-distance / scale) and distance = ||difference||_1.
        """
        if links[number - 1].shift == stride:
            return
        difference = get()
        distance = stored[number - 1][strip][..., None]
        gate = torch.exp(-distance / scale)
        to_gate = (grad * difference).sum(-1, keepdim=True)
        to_exponent = to_gate * gate
        to_scale.add_((to_exponent * distance).sum() / scale**2)
        grad.mul_(gate).addcmul_(difference.sign_(), -to_exponent / scale)

    for i, image in enumerate(grad):
        gate = partial(ungate, distances[i])
        out[i] = spread(image, winner[i], links, gate, as_pixels(x[i]))
    return out, (to_scale * temperature.sign()).to(temperature.dtype)


class _GatedMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, temperature: Tensor, stride: int) -> Tensor:
        out, winner, distances = _search(x, temperature, stride, True)
        ctx.stride = stride
        ctx.save_for_backward(x, temperature, winner, distances)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_spread(grad, *ctx.saved_tensors, ctx.stride), None


@graph_node(naive_gated_max)
def gated_max(x: Tensor, temperature: Tensor, stride: int) -> Tensor:
    """Compute the largest gated difference of the neighbours from a pixel, at least 0.

    ``x_j = max(0, v - x, g_i (v_i - x))`` over the neighbours v at K pixels, and v_i
    at i = 2, 4, 8, ... pixels, on the pixel's column and row, wrapping round, with
    ``g_i = exp(-||x - v_i||_1 / (|temperature| + 1e-6))``, the norm over channels.

    Equal to that definition up to rounding, for finite ``x`` of any floating dtype; the
    distances are summed in float32 or wider. The gradient of an output goes to its
    strongest link, of equal ones to the first. For the backward ``x``, one byte per
    element and one channel per gated link are stored. It can't be differentiated again.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W), in any memory format.
        temperature (Tensor): Temperature of the gates, of shape ().
        stride (int): Distance K of the neighbours without a gate, in pixels.

    Returns:
        Tensor: x_j, of the same shape, dtype and memory format as ``x``.
    """
    if is_traced():
        return export_graph_step(naive_gated_max, x, temperature, stride=stride)
    if torch.is_grad_enabled() and (x.requires_grad or temperature.requires_grad):
        return _GatedMax.apply(x, temperature, stride)
    return _search(x, temperature, stride, False)[0]
