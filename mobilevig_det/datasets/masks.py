"""Encode masks as COCO run lengths (RLE), and paste predicted masks into images."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import torch
import torch.nn.functional as F
from torch import Tensor


def encode_rle(
    masks: Sequence[np.ndarray] | np.ndarray, size: tuple[int, int] | None = None
) -> list[dict]:
    """Encode masks as COCO's compressed run lengths.

    The result is that of ``pycocotools.mask.encode``.

    Args:
        masks (Sequence[np.ndarray]): Masks of shape (H, W), bool, or uint8 of zeros
            and ones. An array of shape (N, H, W) will do.
        size (tuple[int, int], optional): Height and width, in pixels, to resize each
            mask to first, by the nearest pixel. Defaults to None: no resizing.

    Returns:
        list[dict]: ``size``, [H, W], and ``counts``, a string as COCO's JSON files
        have it, of each mask.

    Example:
        >>> encode_rle(np.eye(2, dtype=bool)[None])
        [{'size': [2, 2], 'counts': '01210'}]
    """
    encoded = []
    for mask in masks:
        mask = mask.view(np.uint8)
        if size is not None and mask.shape != size:
            mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
        # OpenCV transposes by blocks, several times as fast as NumPy.
        rle = mask_utils.encode(cv2.transpose(mask).T)
        encoded.append(dict(rle, counts=rle['counts'].decode()))
    return encoded


def count_rle_pixels(counts: list | str) -> int:
    """Count the pixels, zeros and ones, that run lengths cover.

    pycocotools doesn't check the sum: run lengths that don't fill their mask are
    decoded to whatever the memory held.

    Args:
        counts (list[int] | str): Run lengths, plain or compressed.

    Returns:
        int: Number of pixels, or -1 if ``counts`` aren't run lengths.
    """
    try:
        lengths = _decompress(counts) if isinstance(counts, str) else np.array(counts)
    except ValueError:
        return -1
    is_sound = (
        lengths.ndim == 1 and lengths.dtype.kind in 'iuf' and (lengths >= 0).all()
    )
    # A float is as good as the integer that it equals; NaN and infinity equal none.
    if not is_sound or not np.isfinite(lengths).all() or (lengths % 1).any():
        return -1
    return int(lengths.sum(dtype=np.float64))


def _decompress(text: str) -> np.ndarray:
    """Read compressed run lengths, like ``rleFrString`` of pycocotools' maskApi.c.

    A character is six bits, plus 48: five of a number, the lowest first, and one that
    says that another group follows. From the fourth on, a number is the difference to
    the last but one.

    Raises:
        ValueError: If the text isn't run lengths.
    """
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    groups = np.diff(ends, prepend=-1)  # of characters
    is_complete = len(ends) > 0 and ends[-1] == len(codes) - 1
    if not is_complete or groups.max() > 6 or codes.min() < 0 or codes.max() > 63:
        raise ValueError(f'not run lengths: {text[:80]!r}')
    starts = ends + 1 - groups
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, groups))
    lengths = np.add.reduceat((codes & 31) << shifts, starts)
    is_negative = codes[ends] & 16 > 0
    lengths -= np.where(is_negative, np.int64(1) << 5 * groups, 0)
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def paste_box_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> Tensor:
    """Paste masks that were predicted within boxes, as Mask R-CNN's are.

    The result is that of MMDetection's ``FCNMaskHead`` on the CPU, bit for bit.

    Args:
        masks (Tensor): Probabilities, float32 of shape (N, h, w).
        boxes (Tensor): (x1, y1, x2, y2) in pixels of the image, float32 of shape
            (N, 4).
        size (tuple[int, int]): Height and width of the image, in pixels.
        threshold (float): Least probability of the foreground.

    Returns:
        Tensor: Masks at the size of the image, bool of shape (N, H, W).
    """
    # Not at import: it takes seconds to import all of MMDetection's models.
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i in range(len(masks)):  # one by one, so that each touches its box only
        mask, where = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], *size)
        pasted[i : i + 1][(slice(None), *where)] = mask >= threshold
    return pasted


def paste_image_masks(
    masks: Tensor,
    size: tuple[int, int],
    factors: tuple[float, float],
    stride: int,
    threshold: float,
) -> Tensor:
    """Resize masks that were predicted for the whole image, as RTMDet-Ins's are.

    The result is that of MMDetection's ``RTMDetInsHead``, which resizes logits twice.

    Args:
        masks (Tensor): Probabilities, float32 of shape (N, h, w), of the model's
            padded input at ``stride``.
        size (tuple[int, int]): Height and width of the image, in pixels.
        factors (tuple[float, float]): Height and width of the model's input, without
            padding, over those of the image.
        stride (int): Pixels of the model's input per pixel of a mask.
        threshold (float): The foreground is more probable than this.

    Returns:
        Tensor: Masks at the size of the image, bool of shape (N, H, W).
    """
    height, width = size
    if not len(masks):
        return torch.zeros(0, height, width, dtype=torch.bool)
    logits = masks.double().clamp(1e-30, 1 - 3e-8).logit().float()[None]
    logits = F.interpolate(logits, scale_factor=stride, mode='bilinear')
    sides = zip(logits.shape[2:], factors)
    padded_size = [math.ceil(side * (1 / factor)) for side, factor in sides]
    logits = F.interpolate(logits, size=padded_size, mode='bilinear')
    return logits[0, :, :height, :width].sigmoid() > threshold
