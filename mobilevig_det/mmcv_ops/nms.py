"""Non-maximum suppression, its groups and Soft-NMS, as in mmcv's extension.

Sources: the greedy algorithm of R-CNN (arXiv 1311.2524), section 2.3; Soft-NMS (ICCV
2017, arXiv 1704.04503).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..custom_op import custom_op
from ..errors import UserError
from .bilinear import wide_dtype

# Boxes whose overlaps with all others are computed together.
BLOCK = 128


def _fake_nms(bboxes, scores, iou_threshold, offset):
    kept = torch.library.get_ctx().new_dynamic_size()
    return bboxes.new_empty(kept, dtype=torch.int64)


@custom_op('nms', fake=_fake_nms)
def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that are kept, from highest to lowest score.

    A box is suppressed if its IoU with a kept box of a higher score is over the
    threshold; :meth:`Tensor.sort` decides the order of equal scores. A box with a NaN
    coordinate is kept and suppresses nothing. Half types are compared as float32.

    Args:
        bboxes (Tensor): (x1, y1, x2, y2) in pixels, of shape (N, 4).
        scores (Tensor): Of shape (N,).
        iou_threshold (float): Largest IoU of two boxes that are both kept.
        offset (int): 0, or 1 if x2 and y2 are the last pixels inside.

    Returns:
        Tensor: int64 of shape (M,).

    Raises:
        UserError: If the shapes don't fit.
    """
    _check(bboxes, scores)
    # Of equal scores mmcv takes first what this sort, which isn't stable, does.
    order = scores.sort(descending=True)[1]
    if len(order) < 2:
        return order
    boxes = bboxes.to(wide_dtype(bboxes.dtype))[order].t().contiguous()
    keep = torch.zeros_like(order, dtype=torch.bool)
    everything = torch.arange(len(order), device=order.device)
    for group in _apart(boxes, offset) if iou_threshold >= 0 else [everything]:
        for kept, _, _ in _blocks(boxes[:, group], torch.gt, iou_threshold, offset):
            keep[group[kept]] = True
    return order[keep]


def _apart(boxes: Tensor, offset: int) -> list[Tensor]:
    """Split boxes (4, N) into groups whose x-ranges don't touch.

    There are such groups because MMDetection offsets the boxes of each class, and of
    each level of an RPN, along the diagonal.

    Returns:
        list[Tensor]: Ascending indices of each group. Small groups are merged.
    """
    number = boxes.shape[1]
    if number <= 4 * BLOCK:
        return [torch.arange(number, device=boxes.device)]
    left, order = boxes[0].sort()
    reach = torch.maximum(boxes[0], boxes[2])[order].cummax(0)[0] + offset
    gaps = (left[1:] > reach[:-1]).nonzero().flatten().tolist()
    groups = []
    start = 0
    for end in [*(gap + 1 for gap in gaps), number]:
        if end - start >= 4 * BLOCK or end == number:
            groups.append(order[start:end].sort()[0])
            start = end
    return groups


def _blocks(
    boxes: Tensor, over: Callable, iou_threshold: float, offset: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Suppress boxes (4, N) that come by falling score, some at a time.

    Args:
        boxes (Tensor): (x1, y1, x2, y2), of shape (4, N).
        over (Callable): ``torch.gt`` or ``torch.ge``, which compares an IoU with the
            threshold.
        iou_threshold (float): IoU from which a box is suppressed.
        offset (int): As in :func:`nms`.

    Yields:
        tuple[Tensor, Tensor, Tensor]: Indices of the next boxes that are kept, (K,);
        indices of all boxes that were left before them, (M,); and which of these
        overlap which of those too much, bool of shape (K, M).
    """
    left = torch.arange(boxes.shape[1], device=boxes.device)
    corners = boxes.view(2, 2, -1)  # (first or last, x or y, N)
    sides = corners[1] - corners[0] + offset
    areas = sides[0] * sides[1]
    while len(left):
        size = min(BLOCK, len(left))
        suppressed = over(_overlap(corners, areas, size, offset), iou_threshold)
        kept = _scan(suppressed[:, :size])
        suppressed = suppressed[kept]
        yield left[kept], left, suppressed
        # As indices: each use of a boolean mask would wait for a GPU.
        alive = (~suppressed[:, size:].any(0)).nonzero().flatten() + size
        left = left[alive]
        corners, areas = corners[..., alive], areas[alive]


def _overlap(corners: Tensor, areas: Tensor, size: int, offset: int) -> Tensor:
    """Return the IoU of the first boxes with all, (size, N), rounded as in mmcv."""
    first, last = corners[..., None, :]
    inter = torch.minimum(corners[1, :, :size, None], last)
    inter -= torch.maximum(corners[0, :, :size, None], first)
    if offset:
        inter += offset
    width, height = inter.clamp_(min=0)
    inter = width.mul_(height)
    return inter / (areas[:size, None] + areas).sub_(inter)


def _scan(suppressed: Tensor) -> Tensor:
    """Return the indices of a block's boxes that are kept.

    ``suppressed`` says which box would suppress which, bool of shape (n, n).
    """
    # A row is one integer, a bit for each box: 40 times as fast as with tensors.
    rows = np.packbits(suppressed.cpu().numpy(), axis=1, bitorder='little')
    data, width = rows.tobytes(), rows.shape[1]
    gone = 0
    kept = []
    for i in range(len(rows)):
        if not gone >> i & 1:
            kept.append(i)
            gone |= int.from_bytes(data[i * width : (i + 1) * width], 'little')
    return torch.tensor(kept, device=suppressed.device)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept box that suppresses them.

    A box is suppressed if its IoU with a kept box of a higher score is at least the
    threshold; it belongs to the first that does so. Half types are compared as float32.

    Args:
        dets (Tensor): (x1, y1, x2, y2, score) in pixels, of shape (N, 5).
        iou_threshold (float): Least IoU that suppresses.

    Returns:
        list[list[int]]: For each kept box, by falling score: its index, then those of
        the boxes that it suppresses, by falling score.

    Raises:
        UserError: If the shape doesn't fit.
    """
    if dets.ndim != 2 or dets.shape[1] != 5:
        raise UserError(f'dets must be of shape (N, 5), but is {tuple(dets.shape)}.')
    order = dets[:, 4].sort(descending=True)[1]
    boxes = dets[:, :4].detach().to(wide_dtype(dets.dtype))[order].t().contiguous()
    owner = torch.arange(len(order), device=dets.device)
    for kept, left, suppressed in _blocks(boxes, torch.ge, iou_threshold, 0):
        # The first that overlaps; a kept box belongs to itself.
        first = kept[suppressed.byte().argmax(0)]
        owner[left] = torch.where(suppressed.any(0), first, left)
    counts = owner.bincount()
    groups = order[owner.sort(stable=True)[1]].split(counts[counts > 0].tolist())
    return [group.tolist() for group in groups]


SOFT_NMS_METHODS = ('naive', 'linear', 'gaussian')


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the score of each box by its overlap with better ones.

    By 'naive' the score of a box becomes 0 where the IoU is at least the threshold; by
    'linear' it is multiplied by 1 - IoU there; by 'gaussian' it is multiplied by
    exp(-IoU ** 2 / sigma) everywhere. Boxes whose IoU isn't a number, because they have
    no area or no finite one, don't change each other's scores. Boxes with a NaN score
    are dropped. The loop over the kept boxes runs on the CPU. Half types are computed
    in float32.

    Args:
        boxes (Tensor): (x1, y1, x2, y2) in pixels, of shape (N, 4).
        scores (Tensor): Of shape (N,).
        dets (Tensor): Its first M rows are filled with the kept boxes and their new
            scores, by falling score; of shape (N, 5).
        iou_threshold (float): For 'naive' and 'linear'.
        sigma (float): For 'gaussian'.
        min_score (float): Boxes with lower scores are dropped, except for the best.
        method (int): Index into ``SOFT_NMS_METHODS``.
        offset (int): 0, or 1 if x2 and y2 are the last pixels inside.

    Returns:
        Tensor: Indices of the kept boxes, int64 of shape (M,).

    Raises:
        UserError: If an argument's shape or value doesn't fit.
    """
    _check(boxes, scores)
    if not boxes.is_floating_point():
        raise UserError(f'boxes must be of a floating dtype, but are of {boxes.dtype}.')
    if not 0 <= method < len(SOFT_NMS_METHODS):
        raise UserError(f'method must be 0, 1 or 2, but is {method}.')
    if SOFT_NMS_METHODS[method] == 'gaussian' and not sigma > 0:
        raise UserError(f'sigma must be above 0, but is {sigma}.')
    new_scores, keep = _soft_nms(
        boxes.detach(), scores.detach(), iou_threshold, sigma, min_score, method, offset
    )
    dets[: keep.shape[0]] = torch.cat([boxes[keep], new_scores[:, None]], 1)
    return keep


def _fake_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count), boxes.new_empty(count, dtype=torch.long)


# One opaque call for compilers and exporters: the loop depends on the data.
@custom_op('soft_nms', fake=_fake_soft_nms)
def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """Return new scores and indices of the kept boxes, best first.

    The steps are mmcv's, since the order of equal scores depends on them: the best
    remaining box is swapped to the front of the others, whose scores then decay; the
    last box takes the place of one whose score falls below the least.
    """
    device, dtype = boxes.device, boxes.dtype
    # With NumPy on the CPU, whose calls take a fraction of the time of PyTorch's: each
    # step depends on the one before.
    corners = boxes.cpu().to(wide_dtype(dtype)).numpy()
    left = scores.cpu().to(wide_dtype(dtype), copy=True).numpy()
    low, high = corners[:, :2], corners[:, 2:]
    order = np.flatnonzero(~np.isnan(left))
    done = 0
    with np.errstate(all='ignore'):  # infinities
        area = (high - low + offset).prod(1)
        while done < len(order):
            best = done + int(left[order[done:]].argmax())
            order[[done, best]] = order[[best, done]]
            best, rest = order[done], order[done + 1 :]
            done += 1
            size = np.minimum(high[rest], high[best]) - np.maximum(low[rest], low[best])
            common = np.maximum(size + offset, 0).prod(1)
            iou = common / (area[rest] + area[best] - common)
            if SOFT_NMS_METHODS[method] == 'gaussian':
                factor = np.exp(-(iou * iou) / sigma)
            else:
                lowered = 1 - iou if SOFT_NMS_METHODS[method] == 'linear' else 0
                factor = np.where(iou >= iou_threshold, lowered, 1)
            factor[np.isnan(iou)] = 1
            left[rest] *= factor
            keep = left[rest] >= min_score
            if not keep.all():
                # The last boxes take the places of those that are dropped.
                count = np.count_nonzero(keep)
                rest[:count][~keep[:count]] = rest[count:][keep[count:]][::-1]
                order = order[: done + count]
    return (
        torch.from_numpy(left[order]).to(device, dtype),
        torch.from_numpy(order).to(device),
    )


def _check(boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise UserError(
            'boxes must be of shape (N, 4) and scores of shape (N,), but are '
            f'{tuple(boxes.shape)} and {tuple(scores.shape)}.'
        )
