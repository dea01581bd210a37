"""RoIAlign that takes the largest of a bin's samples.

Source: as roi_align.py; few models use it, so it is made for little memory
rather than for speed.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .roi_samples import RoIs, Samples, make_samples, pieces, pixel_rows

# Values of samples that are looked at at a time.
PIECE = 2**20
# What mmcv takes for the maximum of no samples.
LEAST = -10000.0


def _corners(y: Samples, x: Samples, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Position in the map and weight of a sample's four pixels, each of shape
    (N, bins, samples, bins, samples) for the axes y and x."""
    for rows, y_part in ((y.low, 1 - y.part), (y.high, y.part)):
        for columns, x_part in ((x.low, 1 - x.part), (x.high, x.part)):
            yield (
                rows[..., None, None] * width + columns[:, None, None],
                (y_part * y.inside)[..., None, None]
                * (x_part * x.inside)[:, None, None],
            )


def maximum(
    x: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int,
    out: Tensor, index_y: Tensor, index_x: Tensor,
) -> None:  # fmt: skip
    """Into ``out``; also which sample of the bin was the largest, along y and x
    (-1 if none was), exact up to the integers that the dtype holds."""
    channels, height, width = x.shape[1:]
    table = pixel_rows(x, rois.y.start.dtype)
    costs = rois.y.samples.clamp(1, 2 * height + 6) * rois.x.samples.clamp(
        1, 2 * width + 6
    )
    costs, order = (costs * (size[0] * size[1] * channels)).sort()
    for piece in pieces(costs.tolist(), PIECE):
        part = rois.select(order[piece])
        y = make_samples(part.y, size[0], height, sampling_ratio)
        x_ = make_samples(part.x, size[1], width, sampling_ratio)
        corners = list(_corners(y, x_, width))
        pixels = torch.stack([pixel for pixel, _ in corners], -1)
        pixels += part.image.view(-1, 1, 1, 1, 1, 1) * (height * width)
        weights = torch.stack([weight for _, weight in corners], -1)
        exists = y.exists[..., None, None] & x_.exists[:, None, None]
        # Not all channels at a time where a single RoI has very many samples.
        step = max(PIECE // exists.numel(), 1)
        for first, some in zip(range(0, channels, step), table.split(step, 1)):
            values = F.embedding_bag(
                pixels.view(-1, 4),
                some.contiguous(),
                mode='sum',
                per_sample_weights=weights.view(-1, 4),
            ).view(*exists.shape, -1)
            values = values.masked_fill(~exists[..., None], -torch.inf)
            # (N, C, bins, bins, samples)
            values = values.permute(0, 5, 1, 3, 2, 4).flatten(4)
            largest, at = values.max(-1)
            nothing = largest <= LEAST
            largest = largest.clamp(min=LEAST).where(part.sound.view(-1, 1, 1, 1), 0)
            columns = x_.low.shape[2]
            for target, value in (
                (out, largest),
                (index_y, (at // columns).masked_fill(nothing, -1)),
                (index_x, (at % columns).masked_fill(nothing, -1)),
            ):
                target[order[piece], first : first + step] = value.to(target.dtype)


def maximum_backward(
    grad: Tensor, rois: RoIs, size: tuple[int, int], sampling_ratio: int,
    index_y: Tensor, index_x: Tensor, out: Tensor,
) -> None:  # fmt: skip
    _, channels, height, width = out.shape
    dtype = rois.y.start.dtype
    sums = out.new_zeros(out.shape, dtype=dtype).flatten()
    y = make_samples(rois.y, size[0], height, sampling_ratio)
    x = make_samples(rois.x, size[1], width, sampling_ratio)

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
