"""Sampling positions of RoIAlign and deformable RoI pooling along each axis.

Source: Mask R-CNN (ICCV 2017, arXiv 1703.06870), section 3; the samples are placed, and
their positions rounded, as in mmcv and detectron2.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

# RoIs of different shapes are computed separately if together they would take more than
# MOST_WASTE times the taps that they need; FEW_TAPS more don't justify another part.
MOST_WASTE = 1.5
FEW_TAPS = 2**10


class Grid(NamedTuple):
    """Samples of RoIs along one axis; every field of shape (N,)."""

    start: Tensor  # of the RoI, in pixels of the map
    bin: Tensor  # size of a bin
    samples: Tensor  # in a bin, as floats

    def select(self, index: Tensor | slice) -> 'Grid':
        """Return the samples of some RoIs."""
        return Grid(*(field[index] for field in self))

    def taps(self, length: int) -> Tensor:
        """Return an upper bound of the map's pixels that a bin covers, (N,)."""
        between = (self.bin - self.bin / self.samples.clamp(min=1)).abs()
        return (between.ceil() + 2).clamp(max=length)

    def starts(self, bins: int) -> Tensor:
        """Return where each bin starts, (N, bins)."""
        index = torch.arange(bins, dtype=self.bin.dtype, device=self.bin.device)
        return self.start[:, None] + index * self.bin[:, None]


class RoIs(NamedTuple):
    """RoIs on one map, in the dtype of the computation."""

    image: Tensor
    valid: Tensor  # finite, and of a size that mmcv accepts
    y: Grid
    x: Grid

    def select(self, index: Tensor | slice) -> 'RoIs':
        """Return some of the RoIs."""
        image, valid = self.image[index], self.valid[index]
        return RoIs(image, valid, self.y.select(index), self.x.select(index))


def parse_rois(
    rois: Tensor, shape: torch.Size, size: tuple[int, int], scale: float,
    sampling_ratio: int, aligned: bool, dtype: torch.dtype, mirrored: bool = False,
) -> RoIs:  # fmt: skip
    """Check RoIs (N, 5) and compute their samples on maps of ``shape``.

    The arguments are those of :func:`.roi_align.roi_align_forward`, the dtype to
    compute in, and whether aligned RoIs of negative size are valid.
    """
    rois, image, valid = check_rois(rois, shape, dtype)
    x1, y1, x2, y2 = (rois * scale - 0.5 * aligned).unbind(1)
    valid &= (x2 - x1).isfinite() & (y2 - y1).isfinite()
    if aligned and not mirrored:
        valid &= (x2 >= x1) & (y2 >= y1)
    grids = []
    for start, end, bins in ((y1, y2, size[0]), (x1, x2, size[1])):
        length = end - start
        if not aligned:
            length = length.clamp(min=1)
        count = (length / bins).ceil().clamp(min=0)
        if sampling_ratio > 0:
            count = torch.full_like(length, sampling_ratio)
        fields = start, length / bins, count
        grids.append(Grid(*(field.where(valid, 0) for field in fields)))
    return RoIs(image, valid, *grids)


def check_rois(
    rois: Tensor, shape: torch.Size, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Check RoIs (N, 5) on maps of ``shape``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (x1, y1, x2, y2) in ``dtype``, (N, 4); indices of
        the images, (N,); and which RoIs are finite, (N,). The others are zeros.

    Raises:
        UserError: If a shape doesn't fit or a batch index doesn't exist.
    """
    if len(shape) != 4:
        raise UserError(f'input must be of shape (B, C, H, W), but is {tuple(shape)}.')
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise UserError(
            'rois must be of shape (N, 5), (batch index, x1, y1, x2, y2), but is '
            f'{tuple(rois.shape)}.'
        )
    rois = rois.to(dtype)
    valid = rois.isfinite().all(1)
    rois = rois.where(valid[:, None], 0)
    image = rois[:, 0].long()
    # As one transfer: each number that is read waits for a GPU.
    least, most = torch.stack(image.aminmax()).tolist() if len(rois) else (0, 0)
    if len(rois) and not 0 <= least <= most < shape[0]:
        raise UserError(
            f'rois: batch indices go from {least} to {most}, but the '
            f'input has {shape[0]} images, counted from 0.'
        )
    return rois[:, 1:], image, valid


class Samples(NamedTuple):
    """Samples along one axis, of shape (N, bins, samples a bin)."""

    exists: Tensor
    inside: Tensor  # near enough to the map not to count as 0
    low: Tensor  # the pixel before, int64
    high: Tensor  # the pixel after, int64
    part: Tensor  # distance from low, in pixels


def make_samples(
    grid: Grid, start: Tensor, length: int, sampling_ratio: int
) -> Samples:
    """Place the samples of bins on an axis of ``length`` pixels.

    ``start`` is where each bin starts, of shape (N, bins).
    """
    most = max(int(grid.samples.max()), 1)
    if sampling_ratio <= 0:
        # Samples are more than half a pixel apart, so that no more of a bin's lie on
        # the map. The others are left out.
        most = min(most, 2 * length + 6)
    dtype, device = grid.start.dtype, grid.start.device
    step = grid.bin / grid.samples.clamp(min=1)
    skipped = ((-1 - start.detach()) / step[:, None]).nan_to_num(0).floor() - 2
    skipped = skipped.clamp(min=0).minimum((grid.samples[:, None] - most).clamp(min=0))
    index = skipped[..., None] + torch.arange(most, dtype=dtype, device=device)
    # In this order, to be rounded as in mmcv.
    count, size = (f[:, None, None] for f in (grid.samples.clamp(min=1), grid.bin))
    at = start[..., None] + (index + 0.5) * size / count
    exists = index < grid.samples[:, None, None]
    inside = exists & (at >= -1) & (at <= length)
    at = at.where(inside, 0).clamp(0, length - 1)
    low = at.floor()
    part = at - low
    low = low.long()
    return Samples(exists, inside, low, (low + 1).clamp(max=length - 1), part)


def axis_weights(
    grid: Grid, start: Tensor, length: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Find the pixels that bins cover along one axis, and their weights in the mean.

    Args:
        grid (Grid): Samples of the RoIs.
        start (Tensor): Where each bin starts, of shape (N, bins).
        length (int): Pixels of the axis.
        sampling_ratio (int): Samples of a bin; 0 for as many as it has pixels.

    Returns:
        tuple[Tensor, Tensor]: The first pixel of each bin, int64 of shape (N, bins),
        and the weights of it and the pixels that follow, of shape (N, bins, K).
    """
    samples = make_samples(grid, start, length, sampling_ratio)
    first = samples.low.where(samples.inside, length).amin(2)
    last = samples.high.where(samples.inside, -1).amax(2)
    taps = max(int((last - first).max()) + 1, 1)
    first = first.clamp(max=length - taps)
    share = samples.inside / grid.samples.clamp(min=1)[:, None, None]
    weights = share.new_zeros(*first.shape, taps)
    for pixel, part in ((samples.low, 1 - samples.part), (samples.high, samples.part)):
        place = (pixel - first[..., None]).clamp_(0, taps - 1)
        weights.scatter_add_(2, place, part * share)
    return first, weights


def grid_weights(
    rois: RoIs, shape: torch.Size, size: tuple[int, int], sampling_ratio: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return :func:`axis_weights` along y, then along x, of a grid of bins."""
    height, width = shape[-2:]
    y, x = rois.y.starts(size[0]), rois.x.starts(size[1])
    return (
        *axis_weights(rois.y, y, height, sampling_ratio),
        *axis_weights(rois.x, x, width, sampling_ratio),
    )


def pieces(costs: list[int], limit: int) -> Iterator[slice]:
    """Split ascending costs into slices of bounded size.

    The largest cost of a slice times its length stays within the limit, unless the
    slice has one element.
    """
    start = 0
    for i, cost in enumerate(costs):
        if i > start and (i + 1 - start) * cost > limit:
            yield slice(start, i)
            start = i
    if costs:
        yield slice(start, len(costs))


def alike(y: Tensor, x: Tensor, limit: int) -> Iterator[Tensor]:
    """Split RoIs into parts of similar shapes.

    All RoIs of a part take as many taps along each axis as the largest of them, so that
    a tall one and a wide one should not share a part.

    Args:
        y (Tensor): Taps of each RoI along y, of shape (N,).
        x (Tensor): Taps of each RoI along x, of shape (N,).
        limit (int): Largest number of taps of a part with more than one RoI.

    Yields:
        Tensor: Indices of a part.
    """
    order = (y.log2().ceil() * 2**16 + x).argsort()
    start = most_y = most_x = wanted = 0
    for i, (taps_y, taps_x) in enumerate(torch.stack([y, x], 1)[order].tolist()):
        most_y, most_x = max(most_y, taps_y), max(most_x, taps_x)
        wanted += taps_y * taps_x
        taps = (i + 1 - start) * most_y * most_x
        if i > start and (taps > limit or taps > MOST_WASTE * wanted + FEW_TAPS):
            yield order[start:i]
            start, most_y, most_x = i, taps_y, taps_x
            wanted = taps_y * taps_x
    if len(order):
        yield order[start:]


def pixel_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn (B, C, H, W) into (B * H * W, C), a row of channels for each pixel."""
    maps = x.flatten(2)
    rows = maps.transpose(1, 2).to(dtype)
    if not rows.is_contiguous():
        rows = torch.empty_like(rows, memory_format=torch.contiguous_format)
        for image, out in zip(maps, rows):
            out.copy_(image.t())  # torch has a faster copy for two dims
    return rows.flatten(0, 1)
