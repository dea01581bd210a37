"""Deformable convolution, versions 1 and 2 (modulated), as in mmcv's extension.

Sources: Deformable Convolutional Networks (ICCV 2017, arXiv 1703.06211),
Deformable ConvNets v2 (CVPR 2019, arXiv 1811.11168).

``mmcv.ops.deform_conv`` and ``mmcv.ops.modulated_deform_conv`` call the functions at
the end: names, arguments and buffers are mmcv's. Gradients of the map and of the
parameters are added to the buffers, those of offset and mask are written. ``columns``,
``ones`` and ``im2col_step`` size mmcv's own buffers and are ignored.

The map becomes a table of pixels, channels last. For some output pixels at a time,
the samples under the taps of the kernel are read from the table, and one matrix
product computes the output. The backward reads the samples again instead of storing
them. Half types are summed in float32.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import is_traced_or_compiled
from ..errors import UserError
from .bilinear import add_rows, corners, parts, sum_rows, wide_dtype

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Settings of the convolution; pairs are (height, width) in pixels."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    deform_groups: int


def convolve(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Compute the convolution without bias.

    A tap reads the map by bilinear interpolation. Outside of the map, and if its
    offset isn't finite, it reads 0.

    Args:
        x (Tensor): Feature map of shape (B, C, H, W).
        offset (Tensor): Of shape (B, deform_groups * kh * kw * 2, H_out, W_out), in
            pixels, y before x.
        weight (Tensor): Of shape (C_out, C / groups, kh, kw).
        mask (Tensor, optional): Factors of the taps (version 2), of shape
            (B, deform_groups * kh * kw, H_out, W_out). With a mask, it and the offset
            may have more values for each image.
        geometry (Geometry): Kernel, stride, padding, dilation and groups.

    Returns:
        Tensor: Of shape (B, C_out, H_out, W_out) and the dtype of ``x``.

    Raises:
        UserError: If the shapes don't fit each other.
    """
    size = _check(x, offset, weight, geometry, fixed_size=mask is None)
    if mask is not None:
        offset, mask = _as_read(offset, mask, geometry, (len(x), *size))
    if is_traced_or_compiled():
        return _convolve_at_once(x, offset, weight, mask, geometry)
    return _convolve_in_parts(x, offset, weight, mask, geometry)


def _convolve_at_once(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Compute all output pixels at once, of differentiable operations."""
    taps = _taps(offset, mask, geometry)
    at = torch.arange(taps.shape[0], device=x.device)
    points = _points(at, taps, x.shape, offset.shape, geometry)
    columns = _columns(sum_rows(_table(x, geometry), *points), taps, geometry)
    out = columns @ _matrix(weight, geometry).to(columns.dtype)
    return _to_map(out.transpose(0, 1).flatten(1).to(x.dtype), offset)


@torch.no_grad()
def _convolve_in_parts(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Compute some output pixels at a time."""
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
        return _to_map(out, offset)


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
    """Compute the gradients of :func:`convolve`.

    Args:
        grad (Tensor): Gradient of the output.
        x (Tensor): As for :func:`convolve`, as are the following.
        offset (Tensor): Likewise.
        weight (Tensor): Likewise.
        mask (Tensor, optional): Likewise.
        geometry (Geometry): Likewise.
        of_samples (bool): Whether to compute those of x, offset and mask.
        of_weight (bool): Whether to compute that of the weight.

    Returns:
        tuple: Gradients of x, offset, weight and mask; None if not computed.
    """
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
    """Count the elements that are read for one output pixel."""
    return x.shape[1] * geometry.kernel[0] * geometry.kernel[1]


def _table(x: Tensor, geometry: Geometry) -> Tensor:
    """Turn (B, C, H, W) into (1 + B * H * W * deform_groups, C / deform_groups)."""
    rows = x.permute(0, 2, 3, 1).to(wide_dtype(x.dtype))
    rows = rows.reshape(-1, x.shape[1] // geometry.deform_groups)
    return F.pad(rows, (0, 0, 1, 0))  # row 0 is outside


def _taps(offset: Tensor, mask: Tensor | None, geometry: Geometry) -> Tensor:
    """Stack offset and mask, if any, of each output pixel, tap and group.

    The result is of shape (B * H_out * W_out, kh * kw, deform_groups, 2 or 3).
    """
    kernel, groups = geometry.kernel, geometry.deform_groups
    shape = offset.shape[0], groups, kernel[0] * kernel[1]
    taps = offset.reshape(*shape, 2, *offset.shape[2:])
    if mask is not None:
        taps = torch.cat([taps, mask.reshape(*shape, 1, *offset.shape[2:])], 3)
    taps = taps.permute(0, 4, 5, 2, 1, 3).flatten(0, 2)
    return taps.to(wide_dtype(offset.dtype)).contiguous()


def _from_taps(taps: Tensor, like: Tensor) -> Tensor:
    """Turn a slice of the last dim of :func:`_taps` into the shape of ``like``."""
    batch, _, height, width = like.shape
    taps = taps.permute(2, 1, 3, 0).reshape(like.shape[1], batch, height, width)
    return taps.transpose(0, 1).to(like.dtype)


def _points(
    at: Tensor, taps: Tensor, size: torch.Size, out_size: torch.Size, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Return the index and weight of :func:`sum_rows` for output pixels ``at``."""
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
    """Turn samples into (groups, pixels, kh * kw * C / groups)."""
    channels = samples.shape[1] * taps.shape[2] // geometry.groups
    samples = samples.reshape(*taps.shape[:2], geometry.groups, channels)
    return samples.permute(2, 0, 1, 3).flatten(2)


def _matrix(weight: Tensor, geometry: Geometry) -> Tensor:
    """Turn the weight into (groups, kh * kw * C / groups, C_out / groups)."""
    if weight.device.type == 'cpu':  # others sum products of halves in float32
        weight = weight.to(wide_dtype(weight.dtype))
    weight = weight.unflatten(0, (geometry.groups, -1)).flatten(3)
    return weight.permute(0, 3, 2, 1).flatten(1, 2)


def _from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Invert :func:`_matrix`."""
    matrix = matrix.unflatten(1, (-1, like.shape[1])).permute(0, 3, 2, 1)
    return matrix.reshape(like.shape).to(like.dtype)


def _to_map(out: Tensor, offset: Tensor) -> Tensor:
    """Turn (pixels, C_out) into (B, C_out, H_out, W_out)."""
    out = out.view(offset.shape[0], *offset.shape[2:], out.shape[1])
    return out.permute(0, 3, 1, 2)


def _check(
    x: Tensor, offset: Tensor, weight: Tensor, geometry: Geometry, fixed_size: bool
) -> list[int]:
    """Return the size of the output, or name the argument that doesn't fit it."""
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
    if fixed_size:
        taps = geometry.deform_groups * geometry.kernel[0] * geometry.kernel[1]
        _check_shape('offset', offset, (x.shape[0], 2 * taps, *size))
    return size


def _check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    if len(shape) != tensor.dim() or any(
        expected is not None and expected != actual
        for expected, actual in zip(shape, tensor.shape)
    ):
        raise UserError(
            f'{name} must have the shape {tuple(shape)}, not {tuple(tensor.shape)}'
        )


def _as_read(
    offset: Tensor, mask: Tensor, geometry: Geometry, size: tuple[int, ...]
) -> list[Tensor]:
    """Return offset and mask in the size of the output, as compiled mmcv reads them.

    It takes the first values of each image, whatever their shape. DyHead relies on it
    where it passes the offsets of a finer map.
    """
    batch, height, width = size
    taps = geometry.deform_groups * geometry.kernel[0] * geometry.kernel[1]
    read = []
    for name, tensor, channels in (('offset', offset, 2 * taps), ('mask', mask, taps)):
        shape, count = (batch, channels, height, width), channels * height * width
        if len(tensor) < batch or tensor[:1].numel() < count:
            raise UserError(
                f'{name} must have the shape {shape}, not {tuple(tensor.shape)}, or '
                'more values for each image'
            )
        read.append(tensor[:batch].flatten(1)[:, :count].reshape(shape))
    return read


def _write_first(values: Tensor, out: Tensor) -> None:
    """Write the gradient of what :func:`_as_read` takes: zero for what was not read."""
    values = values.flatten(1)
    padding = 0, out[0].numel() - values.shape[1], 0, len(out) - len(values)
    out.copy_(F.pad(values, padding).view(out.shape))


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor,
    ones: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int, padH: int,
    dilationW: int, dilationH: int, group: int, deformable_group: int, im2col_step: int,
) -> None:  # fmt: skip
    """Version 1: write the result to ``output``."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW),
                        group, deformable_group)  # fmt: skip
    output.copy_(convolve(input, offset, weight, None, geometry))


def deform_conv_backward_input(
    input: Tensor, offset: Tensor, gradOutput: Tensor, gradInput: Tensor,
    gradOffset: Tensor, weight: Tensor, columns: Tensor, kW: int, kH: int, dW: int,
    dH: int, padW: int, padH: int, dilationW: int, dilationH: int, group: int,
    deformable_group: int, im2col_step: int,
) -> None:  # fmt: skip
    """Version 1: compute the gradients of the map and of the offset."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW),
                        group, deformable_group)  # fmt: skip
    grad_input, grad_offset, _, _ = convolve_backward(
        gradOutput, input, offset, weight, None, geometry, of_weight=False
    )
    gradInput.add_(grad_input)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, gradOutput: Tensor, gradWeight: Tensor,
    columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int,
    padH: int, dilationW: int, dilationH: int, group: int, deformable_group: int,
    scale: float, im2col_step: int,
) -> None:  # fmt: skip
    """Version 1: compute the gradient of the weight, times ``scale``."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW),
                        group, deformable_group)  # fmt: skip
    # The gradient of the weight depends on its shape only.
    _, _, grad_weight, _ = convolve_backward(
        gradOutput, input, offset, gradWeight, None, geometry, of_samples=False
    )
    gradWeight.add_(grad_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
    mask: Tensor, output: Tensor, columns: Tensor, kernel_h: int, kernel_w: int,
    stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int,
    dilation_w: int, group: int, deformable_group: int, with_bias: bool,
) -> None:  # fmt: skip
    """Version 2: write the result to ``output``."""
    geometry = Geometry((kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w),
                        (dilation_h, dilation_w), group, deformable_group)  # fmt: skip
    output.copy_(convolve(input, offset, weight, mask, geometry))
    if with_bias:
        _check_shape('bias', bias, (weight.shape[0],))
        output.add_(bias[:, None, None])


def modulated_deform_conv_backward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
    mask: Tensor, columns: Tensor, grad_input: Tensor, grad_weight: Tensor,
    grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
    kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
    dilation_h: int, dilation_w: int, group: int, deformable_group: int,
    with_bias: bool,
) -> None:  # fmt: skip
    """Version 2: compute all gradients."""
    geometry = Geometry((kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w),
                        (dilation_h, dilation_w), group, deformable_group)  # fmt: skip
    batch, _, *size = grad_output.shape
    offset, mask = _as_read(offset, mask, geometry, (batch, *size))
    of_input, of_offset, of_weight, of_mask = convolve_backward(
        grad_output, input, offset, weight, mask, geometry
    )
    grad_input.add_(of_input)
    grad_weight.add_(of_weight)
    _write_first(of_offset, grad_offset)
    _write_first(of_mask, grad_mask)
    if with_bias:
        grad_bias.add_(grad_output.sum((0, 2, 3)))
