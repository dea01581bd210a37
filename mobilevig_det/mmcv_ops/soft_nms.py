"""Soft non-maximum suppression.

Source: Soft-NMS (ICCV 2017, arXiv 1704.04503).

What mmcv does, step for step, for the order of equal scores depends on it:
the best box left is swapped to the front of the others, whose scores then
decay by their overlap with it; a box that falls below the least score leaves
its place to the last one.
"""

import numpy as np
import torch
from torch import Tensor

from ..custom_op import custom_op
from ..errors import UserError
from .bilinear import wide

METHODS = ('naive', 'linear', 'gaussian')


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = 'linear',
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Lower the score of each box by its overlap with better ones.

    By 'naive' the score of a box becomes 0 where the IoU is at least the
    threshold; by 'linear' it is there multiplied by 1 - IoU; by 'gaussian' it
    is multiplied everywhere by exp(-IoU ** 2 / sigma). Boxes whose IoU isn't a
    number, having no area or no finite one, leave each other's scores alone.
    Boxes whose score is NaN are left out.

    The boxes are worked on one after the other, on the CPU: it is a loop over
    those kept. Half types are computed in float32.

    Args:
        boxes (Tensor): Shape (N, 4): left, top, right and bottom, in pixels.
        scores (Tensor): Shape (N,).
        iou_threshold (float): For 'naive' and 'linear'.
        sigma (float): For 'gaussian'.
        min_score (float): Boxes of lower scores are dropped, but for the best.
        method (str): 'naive', 'linear' or 'gaussian'.
        offset (int): Added to widths and heights; 0 or 1.

    Returns:
        tuple: Boxes with their new scores, of shape (M, 5), in order of
        falling scores, and their indices in ``boxes``, int64 of shape (M,).

    Raises:
        UserError: If an argument's shape or value doesn't fit.
    """
    if method not in METHODS:
        raise UserError(f'method must be one of {METHODS}, not {method!r}')
    _check(boxes, scores, sigma, METHODS.index(method))
    new_scores, keep = _suppress(
        boxes.detach(),
        scores.detach(),
        float(iou_threshold),
        float(sigma),
        float(min_score),
        METHODS.index(method),
        int(offset),
    )
    return torch.cat([boxes[keep], new_scores[:, None]], 1), keep


def _fake(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count), boxes.new_empty(count, dtype=torch.long)


# To compilers and exporters one opaque call: the loop depends on the data.
@custom_op('soft_nms', fake=_fake)
def _suppress(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """New scores and indices of the boxes that are left, best first."""
    device, dtype = boxes.device, boxes.dtype
    # Each step looks at the result of the one before: on the CPU, by NumPy,
    # whose calls take a fraction of the time of PyTorch's.
    corners = boxes.cpu().to(wide(dtype)).numpy()
    left = scores.cpu().to(wide(dtype), copy=True).numpy()
    with np.errstate(all='ignore'):  # infinities
        order = _decay(corners, left, iou_threshold, sigma, min_score, method, offset)
    return (
        torch.from_numpy(left[order]).to(device, dtype),
        torch.from_numpy(order).to(device),
    )


def _decay(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> np.ndarray:
    """Lower ``scores`` in place; return the indices of the boxes left."""
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low + offset).prod(1)
    order = np.flatnonzero(~np.isnan(scores))
    done = 0
    while done < len(order):
        best = done + int(scores[order[done:]].argmax())
        order[[done, best]] = order[[best, done]]
        best, rest = order[done], order[done + 1 :]
        done += 1
        size = np.minimum(high[rest], high[best]) - np.maximum(low[rest], low[best])
        common = np.maximum(size + offset, 0).prod(1)
        iou = common / (area[rest] + area[best] - common)
        if METHODS[method] == 'gaussian':
            factor = np.exp(-(iou * iou) / sigma)
        else:
            lowered = 1 - iou if METHODS[method] == 'linear' else 0
            factor = np.where(iou >= iou_threshold, lowered, 1)
        factor[np.isnan(iou)] = 1
        scores[rest] *= factor
        keep = scores[rest] >= min_score
        if not keep.all():
            # Gaps are filled from behind.
            count = np.count_nonzero(keep)
            rest[:count][~keep[:count]] = rest[count:][keep[count:]][::-1]
            order = order[: done + count]
    return order


def _check(boxes: Tensor, scores: Tensor, sigma: float, method: int) -> None:
    """Raise a UserError that names the argument that doesn't fit."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise UserError(
            'boxes must be of shape (N, 4) and floating, not '
            f'{tuple(boxes.shape)} of {boxes.dtype}'
        )
    if scores.shape != boxes.shape[:1]:
        raise UserError(
            f'scores must be of shape {tuple(boxes.shape[:1])}, '
            f'not {tuple(scores.shape)}'
        )
    if METHODS[method] == 'gaussian' and not sigma > 0:
        raise UserError(f'sigma must be above 0, not {sigma}')


# What follows has the names, arguments and buffers of mmcv's extension.


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
    """:func:`soft_nms`; its boxes become the first of ``dets``, and the
    indices are returned. ``method`` counts from 'naive'."""
    if not 0 <= method < len(METHODS):
        raise UserError(f'method must be from 0 to {len(METHODS) - 1}, not {method}')
    found, keep = soft_nms(
        boxes, scores, iou_threshold, sigma, min_score, METHODS[method], offset
    )
    dets[: keep.shape[0]] = found
    return keep
