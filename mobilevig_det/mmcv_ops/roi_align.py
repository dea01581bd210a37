"""RoIAlign, under the names and with the arguments of mmcv's extension.

Source: Mask R-CNN (ICCV 2017, arXiv 1703.06870), section 3; the samples are
placed as in mmcv and detectron2.

A bilinear weight is a product of one along y and one along x, and so is the
mean over a bin's grid of samples. So a bin's average is a sum over the few
pixels that it covers, which `embedding_bag` computes from rows of channels;
its gradient is the same sum with the two sides exchanged.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..custom_op import custom_op
from .bilinear import wide
from .roi_align_max import maximum, maximum_backward
from .roi_samples import RoIs, alike, axis_weights, parse_rois, pieces, pixel_rows

# Pairs of a bin and a pixel that are worked on at a time: so that on a CPU the
# bins of a piece stay in the cache; and, in the backward, so that sorting them
# takes a bounded amount of memory.
FORWARD_PIECE = 2**18
BACKWARD_PIECE = 2**22
# Channels that are worked on at a time, where the map's layout must be changed:
# for little memory.
CHANNELS = 64
# With fewer channels than that, rows of the map are summed instead: a row of
# channels would be shorter than what looking it up costs.
FEW_CHANNELS = 16


class _Pairs(NamedTuple):
    """Bins of some RoIs and the pixels that they cover."""

    rois: Tensor  # which, (M, )
    pixels: Tensor  # (M * bins, K), int64, within the maps of the batch
    weights: Tensor  # (M * bins, K)


def _pairs(
    rois: RoIs, shape: torch.Size, size: tuple[int, int], sampling_ratio: int
) -> Iterator[_Pairs]:
    """All pairs of a bin and a pixel in it, RoIs of like shapes together."""
    height, width = shape[-2:]
    limit = FORWARD_PIECE // (size[0] * size[1])
    for which in alike(rois.y.taps(height), rois.x.taps(width), limit):
        part = rois.select(which)
        y, y_weights = axis_weights(part.y, size[0], height, sampling_ratio)
        x, x_weights = axis_weights(part.x, size[1], width, sampling_ratio)
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
            bins = F.embedding_bag(
                pairs.pixels, table, mode='sum', per_sample_weights=pairs.weights
            )
            bins = bins.view(-1, *size, table.shape[1]).permute(0, 3, 1, 2)
            out[pairs.rois, i : i + step] = bins.to(out.dtype)


def _average_few_channels(
    x: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int, out: Tensor
) -> None:
    """The same: sums of rows of the map, then a product along the rows."""
    _, channels, height, width = x.shape
    table = x.to(rois.y.start.dtype).reshape(-1, width)
    cost = (channels * size[0] + size[1]) * width
    for piece in pieces([cost] * len(out), 4 * FORWARD_PIECE):
        part = rois.select(piece)
        y, y_weights = axis_weights(part.y, size[0], height, sampling_ratio)
        x_, x_weights = axis_weights(part.x, size[1], width, sampling_ratio)
        maps = part.image[:, None] * channels + torch.arange(channels, device=x.device)
        taps = y_weights.shape[2]
        rows = y[..., None] + torch.arange(taps, device=x.device)
        rows = maps[..., None, None] * height + rows[:, None]
        weights = y_weights[:, None].expand(rows.shape)
        sums = F.embedding_bag(
            rows.flatten(0, 2),
            table,
            mode='sum',
            per_sample_weights=weights.reshape(-1, taps),
        )
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


@custom_op('roi_align_forward', mutates_args=('output', 'argmax_y', 'argmax_x'))
def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Pool the features of RoIs into bins.

    A RoI of negative size (with ``aligned``; else it is one unit wide) or with a
    coordinate that is not finite gives zeros, as does the average of one of no
    size. Half types are summed as float32.

    Args:
        input (Tensor): Features of shape (B, C, H, W), any floating dtype.
        rois (Tensor): (batch index, x1, y1, x2, y2), of shape (N, 5).
        output (Tensor): Is filled; of shape (N, C, bins along y, along x).
        argmax_y (Tensor): Is filled for :func:`roi_align_backward` if the mode
            is the maximum: which sample, along y; like ``output``.
        argmax_x (Tensor): The same along x.
        aligned_height (int): Bins along y.
        aligned_width (int): Bins along x.
        spatial_scale (float): Pixels of the map for each unit of the RoIs.
        sampling_ratio (int): Samples of a bin along an axis; 0 for as many as
            it has pixels, rounded up.
        pool_mode (int): 0 for the maximum of the samples, 1 for the average.
        aligned (bool): Whether pixels have their centres at halves.

    Raises:
        UserError: If a shape does not fit or a batch index does not exist.
    """
    size = aligned_height, aligned_width
    dtype = wide(input.dtype)
    parsed = parse_rois(
        rois, input.shape, size, spatial_scale, sampling_ratio, aligned, dtype
    )
    if not output.numel() or not input.numel():
        return
    with torch.autocast(input.device.type, enabled=False):
        if pool_mode == 0:
            maximum(input, parsed, size, sampling_ratio, output, argmax_y, argmax_x)
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

    The order of the sums is fixed on CPUs for the average.
    """
    size = aligned_height, aligned_width
    dtype = wide(grad_input.dtype)
    parsed = parse_rois(
        rois, grad_input.shape, size, spatial_scale, sampling_ratio, aligned, dtype
    )
    if not grad_output.numel() or not grad_input.numel():
        return
    if pool_mode == 0:
        maximum_backward(
            grad_output, parsed, size, sampling_ratio, argmax_y, argmax_x, grad_input
        )
    else:
        _average_backward(grad_output, parsed, size, sampling_ratio, grad_input)
