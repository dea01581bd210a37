"""Non-maximum suppression, under the name and with the arguments of mmcv's
extension.

Source: the greedy algorithm of R-CNN (arXiv 1311.2524), section 2.3.
"""

import numpy as np
import torch
from torch import Tensor

from ..custom_op import custom_op
from ..errors import UserError
from .bilinear import wide

# Boxes whose overlaps with all others are computed at a time.
BLOCK = 128


def _fake(bboxes, scores, iou_threshold, offset):
    kept = torch.library.get_ctx().new_dynamic_size()
    return bboxes.new_empty(kept, dtype=torch.int64)


@custom_op('nms', fake=_fake)
def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, from the highest score to the lowest.

    A box goes if its IoU with a kept one of a higher score is over the
    threshold; of equal scores :meth:`Tensor.sort` says which is the higher. A
    box with a coordinate that is NaN stays, and suppresses nothing. Half types
    are compared as float32.

    Args:
        bboxes (Tensor): (x1, y1, x2, y2), of shape (N, 4).
        scores (Tensor): Of shape (N, ).
        iou_threshold (float): Largest IoU of two boxes that both stay.
        offset (int): 0, or 1 if x2 and y2 are the last pixels inside.

    Returns:
        Tensor: int64, of shape (M, ).

    Raises:
        UserError: If the shapes don't fit.
    """
    if bboxes.ndim != 2 or bboxes.shape[1] != 4 or scores.shape != bboxes.shape[:1]:
        raise UserError(
            'nms: bboxes must be of shape (N, 4) and scores of shape (N, ), but are '
            f'{tuple(bboxes.shape)} and {tuple(scores.shape)}.'
        )
    # Of equal scores mmcv takes first what this sort, which isn't stable, does.
    order = scores.sort(descending=True)[1]
    if len(order) < 2:
        return order
    boxes = bboxes.to(wide(bboxes.dtype))[order].t().contiguous()
    keep = order.new_ones(len(order), dtype=torch.bool)
    for group in _apart(boxes, offset) if iou_threshold >= 0 else [...]:
        keep[group] = _greedy(boxes[:, group], iou_threshold, offset)
    return order[keep]


def _apart(boxes: Tensor, offset: int) -> list:
    """Split boxes (4, N) into groups whose x-ranges don't touch.

    MMDetection moves each class, and each level of an RPN, to a place of its
    own along the diagonal, so that there are such groups.

    Returns:
        list: Ascending indices of each group (or ``...``, all of them). Small
        groups stay together.
    """
    number = boxes.shape[1]
    if number <= 4 * BLOCK:
        return [...]
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


def _greedy(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Which boxes (4, N), by falling score, stay: bool of shape (N, )."""
    keep = torch.zeros(boxes.shape[1], dtype=torch.bool, device=boxes.device)
    left = torch.arange(boxes.shape[1], device=boxes.device)
    corners = boxes.view(2, 2, -1)  # (first or last, x or y, N)
    sides = corners[1] - corners[0] + offset
    areas = sides[0] * sides[1]
    while len(left):
        size = min(BLOCK, len(left))
        suppressed = _overlap(corners, areas, size, offset) > iou_threshold
        kept = _scan(suppressed[:, :size])
        keep[left[kept]] = True
        # Indices: for each use of booleans as such a GPU would be waited for.
        alive = (~suppressed[kept, size:].any(0)).nonzero().flatten() + size
        left = left[alive]
        corners, areas = corners[..., alive], areas[alive]
    return keep


def _overlap(corners: Tensor, areas: Tensor, size: int, offset: int) -> Tensor:
    """IoU of the first boxes with all, (size, N), rounded as mmcv's are."""
    first, last = corners[..., None, :]
    inter = torch.minimum(corners[1, :, :size, None], last)
    inter -= torch.maximum(corners[0, :, :size, None], first)
    if offset:
        inter += offset
    width, height = inter.clamp_(min=0)
    inter = width.mul_(height)
    return inter / (areas[:size, None] + areas).sub_(inter)


def _scan(suppressed: Tensor) -> Tensor:
    """Indices of a block's boxes that stay, from which would suppress which, (n, n)."""
    # A row is one integer, a bit for each box: 40 times as fast as tensors.
    rows = np.packbits(suppressed.cpu().numpy(), axis=1, bitorder='little')
    data, width = rows.tobytes(), rows.shape[1]
    gone = 0
    kept = []
    for i in range(len(rows)):
        if not gone >> i & 1:
            kept.append(i)
            gone |= int.from_bytes(data[i * width : (i + 1) * width], 'little')
    return torch.tensor(kept, device=suppressed.device)
