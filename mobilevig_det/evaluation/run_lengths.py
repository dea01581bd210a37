"""Masks as COCO's run lengths, from what is inside their bounding boxes."""

import numpy as np


def encode_masks(masks: np.ndarray) -> list[dict]:
    """What ``pycocotools.mask.encode`` gives, to the byte, for each mask.

    Only the smallest box around a mask is read column by column; the background
    around it, most of the pixels, is passed over row by row, as it lies in memory.

    Args:
        masks (np.ndarray): Boolean, of shape (N, H, W).

    Returns:
        list[dict]: ``size``, [H, W], and ``counts``, compressed, for each mask.
    """
    runs = [_runs(mask) for mask in masks]
    size = list(masks.shape[1:])
    return [dict(size=list(size), counts=counts) for counts in _compress(runs)]


def _runs(mask: np.ndarray) -> np.ndarray:
    """Lengths of zeros, ones, zeros … of the columns, one after the other."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.array([height * width])
    # With a row of background below, if there is one, the ends of columns stay
    # apart, and with a column of it to the right the end of the last is seen.
    top, bottom = rows[0], rows[-1] + 2
    if bottom > height:
        top, bottom = 0, height
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    left, right = columns[0], columns[-1] + 2
    flat = mask[top:bottom, left:right].ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.append(0, changes)
    column, row = np.divmod(changes, bottom - top)
    places = (column + left) * height + row + top
    return np.diff(places, prepend=0, append=height * width)


def _compress(runs: list[np.ndarray]) -> list[bytes]:
    """COCO's text for run lengths: from the fourth on the difference to the last
    but one, in groups of five bits, the lowest first, with a bit for more of
    them, plus 48 (``rleToString`` of pycocotools' maskApi.c)."""
    values = []
    for lengths in runs:
        differences = lengths.copy()
        differences[3:] -= lengths[1:-2]
        values.append(differences)
    left = np.concatenate(values) if values else np.zeros(0, int)
    groups, used = [], []
    more = np.ones(len(left), bool)
    while more.any():
        used.append(more)
        group = left & 31
        left = left >> 5
        more = more & (left != np.where(group & 16, -1, 0))
        groups.append((group + 32 * more + 48).astype(np.uint8))
    if not groups:
        return []
    which = np.stack(used, axis=1)
    text = np.stack(groups, axis=1)[which].tobytes()
    ends = np.cumsum(which.sum(axis=1))[np.cumsum([len(v) for v in values]) - 1]
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends)]
