"""RoIPool and deformable RoI pooling, as in mmcv's extension.

Sources: Fast R-CNN (ICCV 2015, arXiv 1504.08083), section 2.1; Deformable Convolutional
Networks (ICCV 2017, arXiv 1703.06211), section 2.2. Details follow mmcv.

Both read rows of channels from the feature map, for RoIs of similar shapes together.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .bilinear import CPU_PART_SIZE, PART_SIZE, add_rows, sum_rows, wide_dtype
from .roi_samples import RoIs, alike, axis_weights, check_rois, parse_rois, pixel_rows


def _part_size(x: Tensor, bins: int) -> int:
    """Return how many pixels each bin of some RoIs may read together."""
    limit = 4 * CPU_PART_SIZE if x.device.type == 'cpu' else PART_SIZE
    return limit // max(bins * x.shape[1], 1)


def _bin_edges(
    rois: Tensor, shape: torch.Size, size: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the pixels that the bins of RoIs cover.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Index of each RoI's image, (N,); first row of
        each bin and the row after the last, (N, 2, bins along y); the same for columns.
        Bins of malformed RoIs cover none.
    """
    boxes, image, valid = check_rois(rois, shape, wide_dtype(rois.dtype))
    x1, y1, x2, y2 = boxes[:, 0], boxes[:, 1], boxes[:, 2] + 1, boxes[:, 3] + 1
    valid &= (x2 * scale > x1 * scale) & (y2 * scale > y1 * scale)
    edges = []
    for start, end, bins, length in (
        (y1, y2, size[0], shape[2]),
        (x1, x2, size[1], shape[3]),
    ):
        start, end = start * scale, end * scale
        at = torch.arange(bins + 1, dtype=start.dtype, device=start.device)
        at = at * ((end - start) / bins)[:, None] + start[:, None]
        at = torch.stack([at[:, :-1].floor(), at[:, 1:].ceil()], 1)
        at = at.nan_to_num().clamp(0, length).long()
        edges.append(at * valid[:, None, None])
    return image, edges[0], edges[1]


@torch.no_grad()
def roi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, pooled_height: int,
    pooled_width: int, spatial_scale: float,
) -> None:  # fmt: skip
    """Write the maximum of the pixels that each bin of a RoI covers to ``output``.

    It is 0 where a bin covers none, also if the RoI is malformed or not finite. NaN is
    never the maximum.

    Args:
        input (Tensor): Features of shape (B, C, H, W), any floating dtype.
        rois (Tensor): (batch index, x1, y1, x2, y2), of shape (N, 5); x2 and y2 are the
            last units inside.
        output (Tensor): Is filled; of shape (N, C, bins along y, bins along x).
        argmax (Tensor): Is filled with the first pixel of that value, row * W + column,
            or -1; of the same shape.
        pooled_height (int): Bins along y.
        pooled_width (int): Bins along x.
        spatial_scale (float): Pixels of the map for each unit of the RoIs.

    Raises:
        UserError: If a shape doesn't fit or a batch index doesn't exist.
    """
    _, channels, height, width = input.shape
    size = pooled_height, pooled_width
    image, y, x = _bin_edges(rois, input.shape, size, spatial_scale)
    if not output.numel() or not input.numel():
        return
    # As mmcv's, the maximum of pixels that are all NaN.
    least = max(torch.finfo(torch.float32).min, torch.finfo(input.dtype).min)
    table = pixel_rows(input, input.dtype)
    taps_y, taps_x = (
        (edges[:, 1] - edges[:, 0]).amax(1).clamp(min=1) for edges in (y, x)
    )
    for part in alike(taps_y, taps_x, _part_size(input, size[0] * size[1])):
        rows, columns = (
            edges[part, 0, :, None]
            + torch.arange(int(count[part].max()), device=y.device)
            for edges, count in ((y, taps_y), (x, taps_x))
        )
        # (RoIs, bins along y, along x, pixels along y, along x)
        inside = (rows < y[part, 1, :, None])[:, :, None, :, None] & (
            columns < x[part, 1, :, None]
        )[:, None, :, None]
        at = rows.clamp(max=height - 1)[:, :, None, :, None] * width
        at = (at + columns.clamp(max=width - 1)[:, None, :, None]).flatten(3)
        values = table[at + (image[part] * (height * width)).view(-1, 1, 1, 1)]
        ignored = ~inside.flatten(3)[..., None] | values.isnan()
        values = values.masked_fill_(ignored, -torch.inf)
        largest, chosen = values.max(3)  # the first of equal ones
        pixel = at.gather(3, chosen).masked_fill_(largest <= least, -1)
        there = inside.flatten(3).any(3)[..., None]
        largest = largest.clamp(min=least).where(there, 0)
        output[part] = largest.permute(0, 3, 1, 2).to(output.dtype)
        argmax[part] = pixel.permute(0, 3, 1, 2).to(argmax.dtype)


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor,
    pooled_height: int, pooled_width: int, spatial_scale: float,
) -> None:  # fmt: skip
    """Add the gradient of :func:`roi_pool_forward`'s input to ``grad_input``."""
    dtype = wide_dtype(grad_input.dtype)
    _, image, _ = check_rois(rois, grad_input.shape, wide_dtype(rois.dtype))
    channels = torch.arange(grad_input.shape[1], device=rois.device)
    maps = image[:, None] * grad_input.shape[1] + channels
    pixels = maps[..., None, None] * grad_input.shape[2:].numel() + argmax.clamp(min=0)
    grad = grad_output.to(dtype).masked_fill(argmax < 0, 0)
    sums = grad_input.new_zeros(grad_input.numel(), dtype=dtype)
    sums.index_add_(0, pixels.flatten(), grad.flatten())
    grad_input.add_(sums.view(grad_input.shape))


def _sampled_bins(
    rois: RoIs, shape: torch.Size, size: tuple[int, int], sampling_ratio: int,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Find the pixels that the shifted bins of RoIs read.

    Args:
        rois (RoIs): N RoIs.
        shape (torch.Size): Of the feature map.
        size (tuple[int, int]): Bins along y and x.
        sampling_ratio (int): Samples of a bin along an axis, or 0.
        shift (Tensor, optional): (x, y) of each bin in pixels, of shape (N, 2, *size).

    Returns:
        tuple[Tensor, Tensor]: Index and weight for :func:`.bilinear.sum_rows`, of shape
        (N * bins, pixels). The first pixel is row 1.
    """
    y = rois.y.starts(size[0])[:, :, None].expand(-1, -1, size[1])
    x = rois.x.starts(size[1])[:, None].expand(-1, size[0], -1)
    if shift is not None:
        x, y = x + shift[:, 0], y + shift[:, 1]
    rows, y_weights = axis_weights(rois.y, y.flatten(1), shape[2], sampling_ratio)
    columns, x_weights = axis_weights(rois.x, x.flatten(1), shape[3], sampling_ratio)
    device = rows.device
    rows = (rois.image[:, None] * shape[2] + rows)[..., None]
    rows = (rows + torch.arange(y_weights.shape[2], device=device)) * shape[3]
    columns = columns[..., None] + torch.arange(x_weights.shape[2], device=device)
    index = (rows[..., None] + columns[..., None, :]).flatten(2).flatten(0, 1)
    weights = y_weights[..., None] * x_weights[..., None, :]
    weights = weights.flatten(2).flatten(0, 1)
    return index + 1, weights


def _read(index: Tensor, weights: Tensor) -> Tensor:
    """Return row 0 for pixels without weight, which may be NaN."""
    return index.masked_fill(weights == 0, 0)


def _parse(
    rois: Tensor, input: Tensor, offset: Tensor, size: tuple[int, int], scale: float,
    sampling_ratio: int, gamma: float,
) -> tuple[RoIs, Tensor | None]:  # fmt: skip
    """Return the RoIs, and the offsets, parts of their size, in pixels."""
    shape, dtype = input.shape, wide_dtype(input.dtype)
    parsed = parse_rois(rois, shape, size, scale, sampling_ratio, True, dtype, True)
    if not offset.numel():
        return parsed, None
    if offset.shape != (len(rois), 2, *size):
        raise UserError(
            f'offset must have the shape {(len(rois), 2, *size)}, not '
            f'{tuple(offset.shape)}'
        )
    return parsed, _lengths(parsed, size) * gamma * offset.to(dtype)


def _lengths(rois: RoIs, size: tuple[int, int]) -> Tensor:
    """Return width and height of RoIs in pixels, (N, 2, 1, 1)."""
    lengths = torch.stack([rois.x.bin * size[1], rois.y.bin * size[0]], 1)
    return lengths[..., None, None]


def _deform_parts(x: Tensor, rois: RoIs, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the indices of RoIs that are computed together."""
    taps = rois.y.taps(x.shape[2]), rois.x.taps(x.shape[3])
    return alike(*taps, _part_size(x, size[0] * size[1]))


@torch.no_grad()
def deform_roi_pool_forward(
    input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, pooled_height: int,
    pooled_width: int, spatial_scale: float, sampling_ratio: int, gamma: float,
) -> None:  # fmt: skip
    """Write the mean of the samples in each shifted bin of a RoI to ``output``.

    The samples are those of RoIAlign, with the centres of pixels at half-integers. A
    RoI of negative size has none, except with a fixed ``sampling_ratio``, where the
    bins are mirrored. RoIs and offsets that aren't finite give 0. Half types are summed
    in float32.

    Args:
        input (Tensor): Features of shape (B, C, H, W), any floating dtype.
        rois (Tensor): (batch index, x1, y1, x2, y2), of shape (N, 5).
        offset (Tensor): (x, y) of each bin, times ``gamma`` in parts of the RoI's width
            and height, of shape (N, 2, bins along y, bins along x); or empty.
        output (Tensor): Is filled; of shape (N, C, bins along y, bins along x).
        pooled_height (int): Bins along y.
        pooled_width (int): Bins along x.
        spatial_scale (float): Pixels of the map for each unit of the RoIs.
        sampling_ratio (int): Samples of a bin along an axis; 0 for as many as it has
            pixels, rounded up.
        gamma (float): Factor of the offsets.

    Raises:
        UserError: If a shape doesn't fit or a batch index doesn't exist.
    """
    size = pooled_height, pooled_width
    parsed, shifts = _parse(
        rois, input, offset, size, spatial_scale, sampling_ratio, gamma
    )
    if not output.numel() or not input.numel():
        return
    table = F.pad(pixel_rows(input, wide_dtype(input.dtype)), (0, 0, 1, 0))
    for part in _deform_parts(input, parsed, size):
        shift = None if shifts is None else shifts[part]
        index, weights = _sampled_bins(
            parsed.select(part), input.shape, size, sampling_ratio, shift
        )
        means = sum_rows(table, _read(index, weights), weights)
        means = means.view(len(part), *size, -1)
        output[part] = means.permute(0, 3, 1, 2).to(output.dtype)


@torch.no_grad()
def deform_roi_pool_backward(
    grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor,
    grad_input: Tensor, grad_offset: Tensor, pooled_height: int, pooled_width: int,
    spatial_scale: float, sampling_ratio: int, gamma: float,
) -> None:  # fmt: skip
    """Add the gradients of the features and of the offsets to the buffers."""
    size = pooled_height, pooled_width
    parsed, shifts = _parse(
        rois, input, offset, size, spatial_scale, sampling_ratio, gamma
    )
    if not grad_output.numel() or not input.numel():
        return
    table = F.pad(pixel_rows(input, wide_dtype(input.dtype)), (0, 0, 1, 0))
    of_table = torch.zeros_like(table)
    of_shifts = None if shifts is None else torch.empty_like(shifts)
    for part in _deform_parts(input, parsed, size):
        grad = grad_output[part].permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)
        shift = None if shifts is None else shifts[part].requires_grad_()
        with torch.set_grad_enabled(shifts is not None):
            index, weights = _sampled_bins(
                parsed.select(part), input.shape, size, sampling_ratio, shift
            )
            if of_shifts is not None and shift is not None:
                means = sum_rows(table, index, weights)
                (of_shifts[part],) = torch.autograd.grad(means, shift, grad)
        weights = weights.detach()
        add_rows(of_table, _read(index, weights), weights, grad)
    maps = of_table[1:].view(len(input), *input.shape[2:], -1)
    grad_input.add_(maps.permute(0, 3, 1, 2))
    if of_shifts is not None:
        grad_offset.add_(of_shifts * _lengths(parsed, size) * gamma)
