"""RoIAlign, under the names and arguments of mmcv's extension.

Source: Mask R-CNN (ICCV 2017, arXiv 1703.06870), section 3; the samples are placed as
in mmcv and detectron2.

A bilinear weight is the product of a weight along y and one along x, and so is the
mean over a bin's grid of samples. Therefore the average of a bin is a weighted sum of
the few pixels that it covers, which ``embedding_bag`` computes from rows of channels;
its gradient is the same sum with bins and pixels exchanged. The maximum of a bin, which
few models use, is written for little memory rather than for speed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import custom_op
from .bilinear import wide_dtype
from .roi_samples import (
    RoIs,
    Samples,
    alike,
    grid_weights,
    make_samples,
    parse_rois,
    pieces,
    pixel_rows,
)

# Pairs of a bin and a pixel that are computed together: in the forward the bins of a
# piece stay in a CPU's cache; in the backward sorting takes a bounded amount of memory.
FORWARD_PIECE = 2**18
BACKWARD_PIECE = 2**22
# Channels that are computed together if the map's layout must be changed, to bound the
# memory.
CHANNELS = 64
# With fewer channels, rows of the map are summed instead, because looking up a row of
# channels would cost more than adding it.
FEW_CHANNELS = 16
# For the maximum: samples that are computed together, and mmcv's maximum of none.
MAX_PIECE = 2**20
LEAST = -10000.0


def _sum_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum rows of a table (R, C) at indices (M, K), weighted by (M, K), to (M, C)."""
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weights)


class _Pairs(NamedTuple):
    """Bins of some RoIs and the pixels that they cover.

    Attributes:
        rois: Indices of the RoIs, int64 of shape (M,).
        pixels: Indices into the maps of the batch, int64 of shape (M * bins, K).
        weights: Of shape (M * bins, K).
    """

    rois: Tensor
    pixels: Tensor
    weights: Tensor


def _pairs(
    rois: RoIs, shape: torch.Size, size: tuple[int, int], sampling_ratio: int
) -> Iterator[_Pairs]:
    """Yield all pairs of a bin and a pixel in it, RoIs of similar shapes together."""
    height, width = shape[-2:]
    limit = FORWARD_PIECE // (size[0] * size[1])
    for which in alike(rois.y.taps(height), rois.x.taps(width), limit):
        part = rois.select(which)
        y, y_weights, x, x_weights = grid_weights(part, shape, size, sampling_ratio)
        rows = (part.image[:, None] * height + y)[..., None]
        rows = (rows + torch.arange(y_weights.shape[2], device=y.device)) * width
        columns = x[..., None] + torch.arange(x_weights.shape[2], device=y.device)
        taps = y_weights.shape[2] * x_weights.shape[2]
        yield _Pairs(
            which,
            (rows[:, :, None, :, None] + columns[:, None, :, None]).view(-1, taps),
            (y_weights[:, :, None, :, None] * x_weights[:, None, :, None]).view(
                -1, taps
            ),
        )


def _average(
    x: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int, out: Tensor
) -> None:
    dtype = rois.y.start.dtype
    in_place = x.dtype == dtype and x.permute(0, 2, 3, 1).is_contiguous()
    step = x.shape[1] if in_place else CHANNELS
    for i in range(0, x.shape[1], step):
        table = pixel_rows(x[:, i : i + step], dtype)
        for pairs in _pairs(rois, x.shape, size, sampling_ratio):
            bins = _sum_rows(table, pairs.pixels, pairs.weights)
            bins = bins.view(-1, *size, table.shape[1]).permute(0, 3, 1, 2)
            out[pairs.rois, i : i + step] = bins.to(out.dtype)


def _average_few_channels(
    x: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int, out: Tensor
) -> None:
    """Compute the average as sums of the map's rows, then a product along the rows."""
    _, channels, height, width = x.shape
    table = x.to(rois.y.start.dtype).reshape(-1, width)
    cost = (channels * size[0] + size[1]) * width
    for piece in pieces([cost] * len(out), 4 * FORWARD_PIECE):
        part = rois.select(piece)
        y, y_weights, x_, x_weights = grid_weights(part, x.shape, size, sampling_ratio)
        maps = part.image[:, None] * channels + torch.arange(channels, device=x.device)
        taps = y_weights.shape[2]
        rows = y[..., None] + torch.arange(taps, device=x.device)
        rows = maps[..., None, None] * height + rows[:, None]
        weights = y_weights[:, None].expand(rows.shape)
        sums = _sum_rows(table, rows.flatten(0, 2), weights.reshape(-1, taps))
        columns = x_[..., None] + torch.arange(x_weights.shape[2], device=x.device)
        columns = table.new_zeros(len(y), size[1], width).scatter_(
            2, columns, x_weights
        )
        bins = sums.view(len(y), -1, width) @ columns.transpose(1, 2)
        out[piece] = bins.view(out[piece].shape).to(out.dtype)


def _average_backward(
    grad: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int, out: Tensor
) -> None:
    bins = size[0] * size[1]
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []
    total = 0
    for pairs in _pairs(rois, out.shape, size, sampling_ratio):
        rows = pairs.rois[:, None] * bins + torch.arange(bins, device=grad.device)
        rows = rows.view(-1, 1).expand(pairs.pixels.shape)
        waiting.append(
            (pairs.pixels.flatten(), rows.flatten(), pairs.weights.flatten())
        )
        total += pairs.pixels.numel()
        if total >= BACKWARD_PIECE:
            _spread(grad, waiting, out)
            waiting, total = [], 0
    if waiting:
        _spread(grad, waiting, out)


def _spread(
    grad: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], out: Tensor
) -> None:
    """Add to each pixel the weighted gradients of the bins that cover it.

    Args:
        grad (Tensor): Of the bins, (N, C, bins along y, along x).
        pairs (list[tuple[Tensor, Tensor, Tensor]]): Pixels, bins and weights; is
            emptied.
        out (Tensor): Maps of shape (B, C, H, W).
    """
    pixels, bins, weights = (torch.cat(parts) for parts in zip(*pairs))
    pairs.clear()  # a hundred megabytes
    pixels = pixels.int()  # no map has 2**31 of them
    pixels, order = pixels.sort()
    bins, weights = bins[order], weights[order]
    starts = torch.searchsorted(
        pixels,
        torch.arange(out[:, 0].numel(), dtype=pixels.dtype, device=pixels.device),
    )
    for i in range(0, out.shape[1], CHANNELS):
        table = pixel_rows(grad[:, i : i + CHANNELS], weights.dtype)
        sums = F.embedding_bag(
            bins, table, starts, mode='sum', per_sample_weights=weights
        ).view(len(out), -1, table.shape[1])
        maps = out[:, i : i + CHANNELS].view(len(out), table.shape[1], -1)
        for image, part in zip(maps, sums):
            image.add_(part.t())


def _corners(y: Samples, x: Samples, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield position in the feature map and weight of a sample's four pixels.

    Each is of shape (N, bins, samples, bins, samples) for the axes y and x.
    """
    for rows, y_part in ((y.low, 1 - y.part), (y.high, y.part)):
        for columns, x_part in ((x.low, 1 - x.part), (x.high, x.part)):
            yield (
                rows[..., None, None] * width + columns[:, None, None],
                (y_part * y.inside)[..., None, None]
                * (x_part * x.inside)[:, None, None],
            )


def _maximum(
    x: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int,
    out: Tensor, index_y: Tensor, index_x: Tensor,
) -> None:  # fmt: skip
    """Write the maximum of each bin to ``out``, and its sample to the indices.

    The indices along y and x are -1 if there is no sample, and exact as far as their
    dtype represents integers.
    """
    channels, height, width = x.shape[1:]
    table = pixel_rows(x, rois.y.start.dtype)
    costs = rois.y.samples.clamp(1, 2 * height + 6) * rois.x.samples.clamp(
        1, 2 * width + 6
    )
    costs, order = (costs * (size[0] * size[1] * channels)).sort()
    for piece in pieces(costs.tolist(), MAX_PIECE):
        part = rois.select(order[piece])
        y = make_samples(part.y, part.y.starts(size[0]), height, sampling_ratio)
        x_ = make_samples(part.x, part.x.starts(size[1]), width, sampling_ratio)
        corners = list(_corners(y, x_, width))
        pixels = torch.stack([pixel for pixel, _ in corners], -1)
        pixels += part.image.view(-1, 1, 1, 1, 1, 1) * (height * width)
        weights = torch.stack([weight for _, weight in corners], -1)
        exists = y.exists[..., None, None] & x_.exists[:, None, None]
        # Fewer channels at a time if a single RoI has very many samples.
        step = max(MAX_PIECE // exists.numel(), 1)
        for first, some in zip(range(0, channels, step), table.split(step, 1)):
            values = _sum_rows(
                some.contiguous(), pixels.view(-1, 4), weights.view(-1, 4)
            )
            values = values.view(*exists.shape, -1)
            values = values.masked_fill(~exists[..., None], -torch.inf)
            # (N, C, bins, bins, samples)
            values = values.permute(0, 5, 1, 3, 2, 4).flatten(4)
            largest, at = values.max(-1)
            nothing = largest <= LEAST
            largest = largest.clamp(min=LEAST).where(part.valid.view(-1, 1, 1, 1), 0)
            columns = x_.low.shape[2]
            for target, value in (
                (out, largest),
                (index_y, (at // columns).masked_fill(nothing, -1)),
                (index_x, (at % columns).masked_fill(nothing, -1)),
            ):
                target[order[piece], first : first + step] = value.to(target.dtype)


def _maximum_backward(
    grad: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int,
    index_y: Tensor, index_x: Tensor, out: Tensor,
) -> None:  # fmt: skip
    _, channels, height, width = out.shape
    dtype = rois.y.start.dtype
    sums = out.new_zeros(out.shape, dtype=dtype).flatten()
    y = make_samples(rois.y, rois.y.starts(size[0]), height, sampling_ratio)
    x = make_samples(rois.x, rois.x.starts(size[1]), width, sampling_ratio)

    def chosen(samples: Samples, index: Tensor, bins: Tensor) -> Samples:
        # Of shape (N, C, bins, bins): the sample that was the largest.
        roi = torch.arange(len(index), device=index.device).view(-1, 1, 1, 1)
        at = index.long().clamp(min=0)
        return Samples(*(field[roi, bins, at] for field in samples))

    y = chosen(y, index_y, torch.arange(size[0], device=grad.device).view(-1, 1))
    x = chosen(x, index_x, torch.arange(size[1], device=grad.device))
    there = (index_y >= 0) & y.inside & x.inside
    grad = grad.to(dtype) * there
    maps = rois.image[:, None] * channels + torch.arange(channels, device=grad.device)
    for rows, y_part in ((y.low, 1 - y.part), (y.high, y.part)):
        for columns, x_part in ((x.low, 1 - x.part), (x.high, x.part)):
            at = (maps[..., None, None] * height + rows) * width + columns
            sums.index_add_(0, at.flatten(), (grad * y_part * x_part).flatten())
    out += sums.view(out.shape).to(out.dtype)


@custom_op('roi_align_forward', mutates_args=('output', 'argmax_y', 'argmax_x'))
def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Pool the features of RoIs into bins.

    A RoI of negative size (with ``aligned``; otherwise it is one unit wide) or with a
    coordinate that isn't finite gives zeros, as does the average of an empty RoI. Half
    types are summed in float32.

    Args:
        input (Tensor): Features of shape (B, C, H, W), any floating dtype.
        rois (Tensor): (batch index, x1, y1, x2, y2), of shape (N, 5).
        output (Tensor): Is filled; of shape (N, C, bins along y, bins along x).
        argmax_y (Tensor): If the mode is the maximum, is filled with the index of the
            sample along y, for :func:`roi_align_backward`; of the shape of ``output``.
        argmax_x (Tensor): The same along x.
        aligned_height (int): Bins along y.
        aligned_width (int): Bins along x.
        spatial_scale (float): Pixels of the map for each unit of the RoIs.
        sampling_ratio (int): Samples of a bin along an axis; 0 for as many as it has
            pixels, rounded up.
        pool_mode (int): 0 for the maximum of the samples, 1 for the average.
        aligned (bool): Whether the centres of pixels are at half-integers.

    Raises:
        UserError: If a shape doesn't fit or a batch index doesn't exist.
    """
    size = aligned_height, aligned_width
    dtype = wide_dtype(input.dtype)
    parsed = parse_rois(
        rois, input.shape, size, spatial_scale, sampling_ratio, aligned, dtype
    )
    if not output.numel() or not input.numel():
        return
    with torch.autocast(input.device.type, enabled=False):
        if pool_mode == 0:
            _maximum(input, parsed, size, sampling_ratio, output, argmax_y, argmax_x)
        elif input.shape[1] < FEW_CHANNELS:
            _average_few_channels(input, parsed, size, sampling_ratio, output)
        else:
            _average(input, parsed, size, sampling_ratio, output)


@custom_op('roi_align_backward', mutates_args=('grad_input',))
def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    grad_input: Tensor, aligned_height: int, aligned_width: int, spatial_scale: float,
    sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Add the gradient of :func:`roi_align_forward`'s input to ``grad_input``.

    For the average, the order of the sums on CPUs is fixed.
    """
    size = aligned_height, aligned_width
    dtype = wide_dtype(grad_input.dtype)
    parsed = parse_rois(
        rois, grad_input.shape, size, spatial_scale, sampling_ratio, aligned, dtype
    )
    if not grad_output.numel() or not grad_input.numel():
        return
    if pool_mode == 0:
        _maximum_backward(
            grad_output, parsed, size, sampling_ratio, argmax_y, argmax_x, grad_input
        )
    else:
        _average_backward(grad_output, parsed, size, sampling_ratio, grad_input)
