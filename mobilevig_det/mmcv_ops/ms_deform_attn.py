"""Multi-scale deformable attention.

Source: Deformable DETR (ICLR 2021, arXiv 2010.04159), section 4.1.

The keys of all levels are one table, from which each query's points are read
and summed by their attention in one step, some queries at a time.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UserError
from .bilinear import add_rows, corners, make_table, parts, sum_rows, wants_plain, wide


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    level_start_index: Tensor | None = None,
) -> Tensor:
    """Sum of the value at a few points of several maps, for each query.

    The value is read by bilinear interpolation; outside a map it is 0, and so
    is a point that isn't finite. Half types are summed in float32. The
    gradient can't itself be differentiated.

    Args:
        value (Tensor): Keys of all levels, one after the other and row by
            row, of shape (B, keys, heads, channels of a head).
        spatial_shapes (Tensor): Height and width of each level's map, in
            pixels; integers of shape (levels, 2).
        sampling_locations (Tensor): (B, queries, heads, levels, points, 2), x
            before y, where 0 and 1 are the map's outer edges.
        attention_weights (Tensor): (B, queries, heads, levels, points).
        level_start_index (Tensor, optional): The first key of each level,
            integers of shape (levels,). By default they follow each other.

    Returns:
        Tensor: (B, queries, heads * channels of a head), of value's dtype.

    Raises:
        UserError: If the shapes don't fit each other.
    """
    shapes = spatial_shapes.to(value.device)
    if level_start_index is None:
        keys = shapes[:, 0] * shapes[:, 1]
        level_start_index = keys.cumsum(0) - keys
    start = level_start_index.to(value.device)
    _check(value, shapes, start, sampling_locations, attention_weights)
    locations = sampling_locations.to(wide(value.dtype))
    attention = attention_weights.to(wide(value.dtype))
    if wants_plain():
        return _plain(value, shapes, start, locations, attention)
    return _MSDeformAttn.apply(value, shapes, start, locations, attention)


class _MSDeformAttn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, shapes, start, locations, attention):
        ctx.save_for_backward(value, shapes, start, locations, attention)
        return _forward(value, shapes, start, locations, attention)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        value, shapes, start, locations, attention = ctx.saved_tensors
        of_value, of_locations, of_attention = _backward(
            grad, value, shapes, start, locations, attention
        )
        return of_value, None, None, of_locations, of_attention


def _plain(
    value: Tensor, shapes: Tensor, start: Tensor, locations: Tensor, attention: Tensor
) -> Tensor:
    """All at once, of operations that have gradients."""
    taken = _images(locations), locations.flatten(0, 1), attention.flatten(0, 1)
    points = _points(*taken, value.shape, shapes, start)
    out = sum_rows(_table(value), *points)
    out = out.reshape(*locations.shape[:2], value.shape[2] * value.shape[3])
    return out.to(value.dtype)


@torch.no_grad()
def _forward(
    value: Tensor, shapes: Tensor, start: Tensor, locations: Tensor, attention: Tensor
) -> Tensor:
    """Output of the attention, some queries at a time."""
    rows, images = _table(value), _images(locations)
    taken = images, locations.flatten(0, 1), attention.flatten(0, 1)
    out = value.new_empty(images.shape[0], value.shape[2] * value.shape[3])
    # What is made on the way is one number a corner, not one a channel.
    for part in parts(images.shape[0], 4 * taken[2][0:1].numel(), value.device):
        image, location, share = (t[part] for t in taken)
        points = _points(image, location, share, value.shape, shapes, start)
        out[part] = sum_rows(rows, *points).view(out[part].shape)
    return out.view(*locations.shape[:2], out.shape[1])


@torch.no_grad()
def _backward(
    grad: Tensor,
    value: Tensor,
    shapes: Tensor,
    start: Tensor,
    locations: Tensor,
    attention: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and attention."""
    rows, images = _table(value), _images(locations)
    _, _, heads, channels = value.shape
    grad = grad.reshape(images.shape[0] * heads, channels).to(rows.dtype)
    taken = locations.flatten(0, 1), attention.flatten(0, 1)
    grad_rows, *grads = (torch.zeros_like(t) for t in (rows, *taken))
    size = 4 * taken[1][0:1].numel() * channels
    for part in parts(images.shape[0], size, value.device):
        location, share = pieces = [t[part].detach().requires_grad_() for t in taken]
        with torch.enable_grad():
            points = _points(images[part], location, share, value.shape, shapes, start)
            out = sum_rows(rows, *points)
        g = grad[part.start * heads : part.stop * heads]
        add_rows(grad_rows, points[0], points[1].detach(), g)
        for to, piece in zip(grads, torch.autograd.grad(out, pieces, g)):
            to[part] = piece
    return (
        grad_rows[1:].view(value.shape).to(value.dtype),
        grads[0].view(locations.shape),
        grads[1].view(attention.shape),
    )


def _images(locations: Tensor) -> Tensor:
    """The image of each query, of shape (B * queries,)."""
    batch, queries = locations.shape[:2]
    images = torch.arange(batch, device=locations.device)
    return images[:, None].expand(batch, queries).flatten()


def _table(value: Tensor) -> Tensor:
    """(B, keys, heads, C) to (1 + B * keys * heads, C)."""
    return make_table(value.to(wide(value.dtype)).flatten(0, 2))


def _points(
    images: Tensor,
    locations: Tensor,
    attention: Tensor,
    size: torch.Size,
    shapes: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """What :func:`sum_rows` reads, one sum for each query and head."""
    _, keys, heads, _ = size
    height, width = shapes[:, :1], shapes[:, 1:]
    x, y = locations.unbind(-1)
    index, weight = corners(y * height - 0.5, x * width - 0.5, height, width)
    weight = weight * attention[..., None]
    key = index + start[:, None, None]
    head = torch.arange(heads, device=images.device)[:, None, None, None]
    row = (key + images[:, None, None, None, None] * keys) * heads + head
    # Shapes that ask for more keys than there are read zeros.
    row = torch.where((index < 0) | (key >= keys), 0, row + 1)
    return row.flatten(2).flatten(0, 1), weight.flatten(2).flatten(0, 1)


def _check(
    value: Tensor, shapes: Tensor, start: Tensor, locations: Tensor, attention: Tensor
) -> None:
    """Raise a UserError that names the argument that doesn't fit."""
    if value.dim() != 4 or not value.is_floating_point():
        raise UserError(
            'value must be of shape (B, keys, heads, channels) and floating, but '
            f'has {value.dim()} dims of {value.dtype}'
        )
    if shapes.dim() != 2 or shapes.shape[1] != 2 or shapes.is_floating_point():
        raise UserError(
            'spatial_shapes must be integers of shape (levels, 2), not '
            f'{tuple(shapes.shape)} of {shapes.dtype}'
        )
    batch, keys, heads, _ = value.shape
    levels = shapes.shape[0]
    if locations.dim() != 6 or (
        locations.shape[0],
        *locations.shape[2:4],
        locations.shape[5],
    ) != (batch, heads, levels, 2):
        raise UserError(
            'sampling_locations must have the shape '
            f'({batch}, queries, {heads}, {levels}, points, 2), '
            f'not {tuple(locations.shape)}'
        )
    for name, tensor, shape in (
        ('attention_weights', attention, locations.shape[:5]),
        ('level_start_index', start, shapes.shape[:1]),
    ):
        if tensor.shape != shape:
            raise UserError(
                f'{name} must have the shape {tuple(shape)}, not {tuple(tensor.shape)}'
            )
    # Elsewhere than on a CPU a look at the numbers would wait for the device.
    if shapes.device.type == 'cpu' and not wants_plain():
        ends = start + shapes[:, 0] * shapes[:, 1]
        if (shapes < 0).any() or (start < 0).any() or (ends > keys).any():
            raise UserError(
                f'spatial_shapes {shapes.tolist()} from level_start_index '
                f'{start.tolist()} on do not fit the {keys} keys of value'
            )


# What follows has the names, arguments and buffers of mmcv's extension.


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """:func:`ms_deform_attn`; ``im2col_step`` sizes mmcv's pieces, not ours."""
    with torch.no_grad():
        return ms_deform_attn(
            value,
            value_spatial_shapes,
            sampling_locations,
            attention_weights,
            value_level_start_index,
        )


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradient of the value and write the other two."""
    dtype = wide(value.dtype)
    of_value, of_locations, of_attention = _backward(
        grad_output,
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations.to(dtype),
        attention_weights.to(dtype),
    )
    grad_value.add_(of_value)
    grad_sampling_loc.copy_(of_locations)
    grad_attn_weight.copy_(of_attention)
