"""Deformable convolution, versions 1 and 2 (modulated).

Sources: Deformable Convolutional Networks (ICCV 2017, arXiv 1703.06211),
Deformable ConvNets v2 (CVPR 2019, arXiv 1811.11168).

The map becomes a table of pixels (channels last), from which the samples of
some output pixels at a time are read; one matrix product makes their output.
The backward reads them again instead of keeping them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UserError
from .bilinear import add_rows, corners, make_table, parts, sum_rows, wants_plain, wide

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """How the kernel lies on the map; pairs are (height, width) in pixels."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    deform_groups: int


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel's taps are moved by an offset at each pixel.

    A tap reads the map by bilinear interpolation; outside the map is 0, and
    so is a tap whose offset isn't finite. With a ``mask`` each tap is
    multiplied by it (version 2).

    As in mmcv, the result has the dtype of the offset, whatever the others
    have: under autocast the offset comes from a convolution and is half. Half
    types are summed in float32. The gradient can't itself be differentiated.

    Args:
        x (Tensor): Map of shape (B, C, H, W).
        offset (Tensor): (B, deform_groups * kh * kw * 2, H_out, W_out), in
            pixels, y before x.
        weight (Tensor): (C_out, C / groups, kh, kw).
        bias (Tensor, optional): (C_out,).
        stride (int or tuple): In pixels, one number or (height, width).
        padding (int or tuple): Likewise.
        dilation (int or tuple): Likewise.
        groups (int): Groups of channels that are convolved apart.
        deform_groups (int): Groups of channels with offsets of their own.
        mask (Tensor, optional): (B, deform_groups * kh * kw, H_out, W_out).

    Returns:
        Tensor: (B, C_out, H_out, W_out).

    Raises:
        UserError: If the shapes don't fit each other.
    """
    geometry = Geometry(
        _pair(tuple(weight.shape[2:])),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        groups,
        deform_groups,
    )
    check(x, offset, weight, bias, mask, geometry)
    x, weight = x.to(offset.dtype), weight.to(offset.dtype)
    if mask is not None:
        mask = mask.to(offset.dtype)
    if wants_plain():
        out = _plain(x, offset, weight, mask, geometry)
    else:
        out = _DeformConv.apply(x, offset, weight, mask, geometry)
    return out if bias is None else out + bias.to(out.dtype)[:, None, None]


class _DeformConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, offset, weight, mask, geometry):
        ctx.save_for_backward(x, offset, weight, mask)
        ctx.geometry = geometry
        return _convolve_in_parts(x, offset, weight, mask, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        of_x, of_offset, of_weight, of_mask, _ = ctx.needs_input_grad
        of_samples = of_x or of_offset or of_mask
        x, offset, weight, mask = ctx.saved_tensors
        grads = convolve_backward(
            grad, x, offset, weight, mask, ctx.geometry, of_samples, of_weight
        )
        return *grads, None


def convolve(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """The convolution of tensors that were checked, for what needs no gradient."""
    if wants_plain():
        return _plain(x, offset, weight, mask, geometry)
    return _convolve_in_parts(x, offset, weight, mask, geometry)


def _plain(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """All at once, of operations that have gradients."""
    taps = _taps(offset, mask, geometry)
    at = torch.arange(taps.shape[0], device=x.device)
    points = _points(at, taps, x.shape, offset.shape, geometry)
    columns = _columns(sum_rows(_table(x, geometry), *points), taps, geometry)
    out = columns @ _matrix(weight, geometry).to(columns.dtype)
    return _to_map(out.transpose(0, 1).flatten(1).to(x.dtype), x, offset)


@torch.no_grad()
def _convolve_in_parts(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Output of the convolution, some output pixels at a time."""
    with torch.autocast(x.device.type, enabled=False):
        rows, taps = _table(x, geometry), _taps(offset, mask, geometry)
        matrix = _matrix(weight, geometry)
        at = torch.arange(taps.shape[0], device=x.device)
        out = x.new_empty(taps.shape[0], weight.shape[0])
        for part in parts(taps.shape[0], _samples(x, geometry), x.device):
            points = _points(at[part], taps[part], x.shape, offset.shape, geometry)
            columns = _columns(sum_rows(rows, *points), taps[part], geometry)
            product = columns.to(matrix.dtype) @ matrix
            out[part] = product.transpose(0, 1).flatten(1)
        return _to_map(out, x, offset)


@torch.no_grad()
def convolve_backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    geometry: Geometry,
    of_samples: bool = True,
    of_weight: bool = True,
) -> tuple[Any, ...]:
    """Gradients of x, offset, weight and mask; None if not asked for."""
    with torch.autocast(x.device.type, enabled=False):
        rows, taps = _table(x, geometry), _taps(offset, mask, geometry)
        matrix = _matrix(weight, geometry)
        at = torch.arange(taps.shape[0], device=x.device)
        grad = grad.permute(0, 2, 3, 1).reshape(taps.shape[0], *matrix.shape[::2])
        grad_rows, grad_taps = torch.zeros_like(rows), torch.empty_like(taps)
        grad_matrix = torch.zeros_like(matrix, dtype=rows.dtype)
        for part in parts(taps.shape[0], 4 * _samples(x, geometry), x.device):
            g = grad[part].transpose(0, 1).to(matrix.dtype)
            tap = taps[part].detach().requires_grad_(of_samples)
            with torch.set_grad_enabled(of_samples):
                index, near = _points(at[part], tap, x.shape, offset.shape, geometry)
                samples = sum_rows(rows, index, near)
            if of_weight:
                columns = _columns(samples.detach(), tap, geometry).to(g.dtype)
                grad_matrix += columns.transpose(1, 2) @ g
            if of_samples:
                g = (g @ matrix.transpose(1, 2)).to(rows.dtype)
                # Back from (groups, pixels, taps * channels).
                g = g.unflatten(2, (tap.shape[1], -1)).permute(1, 2, 0, 3)
                g = g.reshape(samples.shape)
                add_rows(grad_rows, index, near.detach(), g)
                (grad_taps[part],) = torch.autograd.grad(samples, tap, g)
        grad_x = grad_offset = grad_weight = grad_mask = None
        if of_samples:
            grad_x = grad_rows[1:].view(x.shape[0], *x.shape[2:], x.shape[1])
            grad_x = grad_x.permute(0, 3, 1, 2).to(x.dtype)
            grad_offset = _from_taps(grad_taps[..., :2], offset)
            if mask is not None:
                grad_mask = _from_taps(grad_taps[..., 2:], mask)
        if of_weight:
            grad_weight = _from_matrix(grad_matrix, weight)
        return grad_x, grad_offset, grad_weight, grad_mask


def _samples(x: Tensor, geometry: Geometry) -> int:
    """Numbers that are read for one output pixel."""
    return x.shape[1] * geometry.kernel[0] * geometry.kernel[1]


def _table(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, C, H, W) to (1 + B * H * W * deform_groups, C / deform_groups)."""
    rows = x.permute(0, 2, 3, 1).to(wide(x.dtype))
    return make_table(rows.reshape(-1, x.shape[1] // geometry.deform_groups))


def _taps(offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """Offset and, if there is one, mask of each output pixel, tap and group:
    (B * H_out * W_out, kh * kw, deform_groups, 2 or 3)."""
    kernel, groups = geometry.kernel, geometry.deform_groups
    shape = offset.shape[0], groups, kernel[0] * kernel[1]
    taps = offset.reshape(*shape, 2, *offset.shape[2:])
    if mask is not None:
        taps = torch.cat([taps, mask.reshape(*shape, 1, *offset.shape[2:])], 3)
    taps = taps.permute(0, 4, 5, 2, 1, 3).flatten(0, 2)
    return taps.to(wide(offset.dtype)).contiguous()


def _from_taps(taps: Tensor, like: Tensor) -> Tensor:
    """Some of :func:`_taps`' last dim back, to (B, channels, H_out, W_out)."""
    batch, _, height, width = like.shape
    taps = taps.permute(2, 1, 3, 0).reshape(like.shape[1], batch, height, width)
    return taps.transpose(0, 1).to(like.dtype)


def _points(
    at: Tensor, taps: Tensor, size: torch.Size, out_size: torch.Size, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """What :func:`sum_rows` reads for the output pixels of number ``at``."""
    height, width = size[2:]
    out_height, out_width = out_size[2:]
    tap = torch.arange(taps.shape[1], device=at.device)
    group = torch.arange(taps.shape[2], device=at.device)
    pixel = at[:, None]
    (_, kernel_width), stride, padding, dilation = geometry[:4]
    y = pixel // out_width % out_height * stride[0] - padding[0]
    x = pixel % out_width * stride[1] - padding[1]
    y = (y + tap // kernel_width * dilation[0])[..., None] + taps[..., 0]
    x = (x + tap % kernel_width * dilation[1])[..., None] + taps[..., 1]
    index, weight = corners(y, x, height, width)
    if taps.shape[-1] == 3:
        weight = weight * taps[..., 2:]
    image = (pixel // (out_height * out_width) * (height * width))[..., None, None]
    row = (image + index) * geometry.deform_groups + group[:, None]
    index = torch.where(index < 0, 0, row + 1)
    return index.flatten(0, 2), weight.flatten(0, 2)


def _columns(samples: Tensor, taps: Tensor, geometry: Geometry) -> Tensor:
    """Samples to (groups, pixels, kh * kw * C / groups)."""
    channels = samples.shape[1] * taps.shape[2] // geometry.groups
    samples = samples.reshape(*taps.shape[:2], geometry.groups, channels)
    return samples.permute(2, 0, 1, 3).flatten(2)


def _matrix(weight: Tensor, geometry: Geometry) -> Tensor:
    """Weight to (groups, kh * kw * C / groups, C_out / groups)."""
    # The processors whose products of halves are fast sum them in float32.
    half = weight.device.type != 'cpu'
    weight = weight.to(weight.dtype if half else wide(weight.dtype))
    weight = weight.unflatten(0, (geometry.groups, -1)).flatten(3)
    return weight.permute(0, 3, 2, 1).flatten(1, 2)


def _from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Back from :func:`_matrix`."""
    matrix = matrix.unflatten(1, (-1, like.shape[1])).permute(0, 3, 2, 1)
    return matrix.reshape(like.shape).to(like.dtype)


def _to_map(out: Tensor, x: Tensor, offset: Tensor) -> Tensor:
    """(pixels, C_out) to (B, C_out, H_out, W_out) in the format of ``x``."""
    out = out.view(offset.shape[0], *offset.shape[2:], out.shape[1])
    out = out.permute(0, 3, 1, 2)
    last = x.is_contiguous(memory_format=torch.channels_last)
    return out if last else out.contiguous()


def _pair(value: int | Sequence[int]) -> Pair:
    # How many there are is looked at in check(), which has the name.
    return cast(Pair, (value,) * 2 if isinstance(value, int) else tuple(value))


def check(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> None:
    """Raise a UserError that names the argument that doesn't fit."""
    for name, tensor in (('x', x), ('offset', offset), ('weight', weight)):
        if tensor.dim() != 4 or not tensor.is_floating_point():
            raise UserError(
                f'{name} must be four-dimensional and floating, '
                f'but has {tensor.dim()} dims of {tensor.dtype}'
            )
    for name, least in (('stride', 1), ('padding', 0), ('dilation', 1)):
        pair = getattr(geometry, name)
        if len(pair) != 2 or min(pair) < least:
            raise UserError(f'{name} must be one or two numbers >= {least}, not {pair}')
    for name, channels in (
        ('groups', (x.shape[1], weight.shape[0])),
        ('deform_groups', (x.shape[1],)),
    ):
        count = getattr(geometry, name)
        if count < 1 or any(c % count for c in channels):
            raise UserError(f'{name} is {count}, which must divide {channels} channels')
    _check_shape('weight', weight, (None, x.shape[1] // geometry.groups, None, None))
    size = [
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k, stride, padding, dilation in zip(x.shape[2:], *geometry[:4])
    ]
    if min(*size, *geometry.kernel) < 1:
        raise UserError(
            f'x of {tuple(x.shape)} is too small for a kernel of {geometry.kernel}: '
            f'the output would be of {tuple(size)}'
        )
    taps = geometry.deform_groups * geometry.kernel[0] * geometry.kernel[1]
    _check_shape('offset', offset, (x.shape[0], 2 * taps, *size))
    if mask is not None:
        _check_shape('mask', mask, (x.shape[0], taps, *size))
    if bias is not None:
        _check_shape('bias', bias, (weight.shape[0],))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    if len(shape) != tensor.dim() or any(
        expected is not None and expected != actual
        for expected, actual in zip(shape, tensor.shape)
    ):
        raise UserError(
            f'{name} must have the shape {tuple(shape)}, not {tuple(tensor.shape)}'
        )
