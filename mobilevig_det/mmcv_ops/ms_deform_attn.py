"""Multi-scale deformable attention, by mmcv's own PyTorch function.

Source: Deformable DETR (ICLR 2021, arXiv 2010.04159), section 4.1.

mmcv calls its extension for tensors on GPUs only; for those on CPUs it has
``multi_scale_deformable_attn_pytorch``, which this module calls on every device. That
function stores every sample, so that some queries at a time are computed: for the
encoder of Deformable DETR on an 800x1216 image (20,197 queries, 8 heads of 32 channels,
4 points on 4 levels) forward and backward take 0.4 GB instead of 1.1 GB on a CPU, and
no more time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import UserError
from .bilinear import wide_dtype

# Elements of the samples that are computed together.
PART_SIZE = 2**23


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum the value at a few points of several maps, for each query.

    The value is read by bilinear interpolation; outside of a map, and at points that
    aren't finite, it is 0. Half types are summed in float32.

    Args:
        value (Tensor): Keys of all levels, row by row, of shape (B, keys, heads,
            channels of a head).
        value_spatial_shapes (Tensor): Height and width of each level's map in pixels,
            integers of shape (levels, 2).
        value_level_start_index (Tensor): First key of each level, integers of shape
            (levels,).
        sampling_locations (Tensor): Of shape (B, queries, heads, levels, points, 2), x
            before y; 0 and 1 are the outer edges of the map.
        attention_weights (Tensor): Of shape (B, queries, heads, levels, points).
        im2col_step (int): Ignored; the size of mmcv's own parts.

    Returns:
        Tensor: Of shape (B, queries, heads * channels of a head) and value's dtype.

    Raises:
        UserError: If the levels don't fit the keys.
    """
    levels = _levels(value, value_spatial_shapes, value_level_start_index)
    out = value.new_empty(*sampling_locations.shape[:2], value.shape[2:].numel())
    with torch.no_grad():
        wide = value.to(wide_dtype(value.dtype))
        for part in _parts(attention_weights, value.shape[3]):
            points = sampling_locations[:, part], attention_weights[:, part]
            out[:, part] = _attend(wide, levels, *points)
    return out


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
    """Add the gradient of the value to its buffer, and write the other two."""
    levels = _levels(value, value_spatial_shapes, value_level_start_index)
    dtype = wide_dtype(value.dtype)
    wide, total = value.to(dtype), torch.zeros_like(value, dtype=dtype)
    for part in _parts(attention_weights, value.shape[3]):
        points = sampling_locations[:, part], attention_weights[:, part]
        inputs = [t.detach().to(dtype).requires_grad_() for t in (wide, *points)]
        with torch.enable_grad():
            out = _attend(inputs[0], levels, inputs[1], inputs[2])
        grads = torch.autograd.grad(out, inputs, grad_output[:, part].to(dtype))
        total += grads[0]
        grad_sampling_loc[:, part], grad_attn_weight[:, part] = grads[1:]
    grad_value.add_(total)


def _attend(
    value: Tensor, levels: list[tuple[int, int, int]], points: Tensor, weights: Tensor
) -> Tensor:
    """Call mmcv's function with levels that follow each other, and finite points."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    keys = [value[:, start : start + h * w] for start, h, w in levels]
    # From -1 to 2 is well outside of every map.
    points = points.to(value.dtype).nan_to_num(nan=-1).clamp(-1, 2)
    with torch.autocast(value.device.type, enabled=False):
        return multi_scale_deformable_attn_pytorch(
            torch.cat(keys, 1),
            [(h, w) for _, h, w in levels],
            points,
            weights.to(value.dtype),
        )


def _levels(value: Tensor, shapes: Tensor, start: Tensor) -> list[tuple[int, int, int]]:
    """Return the first key, height and width of each level."""
    levels = [(s, h, w) for s, (h, w) in zip(start.tolist(), shapes.tolist())]
    for first, height, width in levels:
        if min(first, height, width) < 0 or first + height * width > value.shape[1]:
            raise UserError(
                f'spatial_shapes {shapes.tolist()} from level_start_index '
                f'{start.tolist()} on do not fit the {value.shape[1]} keys of value.'
            )
    return levels


def _parts(weights: Tensor, channels: int) -> Iterator[slice]:
    """Split the queries into parts of bounded numbers of samples."""
    batch, queries = weights.shape[:2]
    step = max(PART_SIZE // max(batch * weights.shape[2:].numel() * channels, 1), 1)
    for first in range(0, queries, step):
        yield slice(first, first + step)
