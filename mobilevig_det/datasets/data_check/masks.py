"""Masks of annotations: polygons and COCO's run lengths (RLE)."""

import math

import numpy as np
import pycocotools.mask as mask_utils

from .report import Add
from .splits import Split

# Farther out, pycocotools draws polygons for minutes, or forever.
MAX_COORDINATE = 1e6


def check_mask(ann: dict, image: dict, name: str, split: Split, add: Add) -> None:
    """Check the ``segmentation`` of an annotation."""
    mask = ann.get('segmentation')
    if not mask:
        add('has no "segmentation"', True, name, 'the model learns masks')
    elif isinstance(mask, dict):
        _check_rle(mask, image, name, add)
    elif isinstance(mask, list):
        _check_polygons(mask, image, name, split, add)
    else:
        add('"segmentation" is neither polygons nor RLE', True, name, repr(mask)[:60])


def _check_rle(mask: dict, image: dict, name: str, add: Add) -> None:
    size, counts = mask.get('size'), mask.get('counts')
    expected = [image['height'], image['width']]
    if not isinstance(counts, (list, str)) or not isinstance(size, list):
        add('RLE mask without "size" or "counts"', True, name)
    elif size != expected:
        add(
            'RLE mask of another size than its image',
            True,
            name,
            f'{size} instead of {expected} (height, width)',
        )
    elif rle_area(counts) != size[0] * size[1]:
        # pycocotools reads on past its end, or refuses it.
        add(
            'RLE mask that does not fill its size',
            True,
            name,
            f'{rle_area(counts)} pixels instead of {size[0]} * {size[1]}',
        )


def _check_polygons(mask: list, image: dict, name: str, split: Split, add: Add) -> None:
    if not all(isinstance(polygon, list) and are_sound(polygon) for polygon in mask):
        add('polygon that is not a list of finite numbers', True, name, repr(mask)[:80])
        return
    short = [polygon for polygon in mask if len(polygon) < 6 or len(polygon) % 2]
    if not short:
        return
    kind = (
        'polygon of two points or fewer'
        if len(short[0]) < 6
        else 'polygon with an odd number of coordinates'
    )
    stops = False
    if split.scores_masks:
        # MMDetection leaves such polygons out; pycocotools may not.
        try:
            mask_utils.frPyObjects(mask, image['height'], image['width'])
        except Exception:
            stops = True
    add(kind, stops, name, repr(short[0]) + (' (pycocotools fails on it)' * stops))


def are_sound(values: list) -> bool:
    """Whether all are numbers, none of them infinite or absurdly large."""
    try:
        return not values or (
            math.isfinite(sum(values))
            and max(values) < MAX_COORDINATE
            and min(values) > -MAX_COORDINATE
        )
    except TypeError:
        return False


def rle_area(counts) -> int:
    """The number of pixels, of both values, that COCO's run lengths cover.

    Args:
        counts (list[int] | str): The plain or the compressed form.

    Returns:
        int: The number; -1 if they are not run lengths at all.

    pycocotools itself does not check it: it decodes lengths that don't fill
    the mask to whatever the memory held.
    """
    if isinstance(counts, str):
        # As in pycocotools' maskApi.c (rleFrString): six bits a character
        # from '0' on, of which five are the number's, lowest first, and one
        # says that there is more; from the fourth on, a number is the
        # difference to the last but one.
        codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
        if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
            return -1
        last = np.flatnonzero(codes & 32 == 0)
        first = np.concatenate([[0], last[:-1] + 1])
        digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
        if digit.max() > 7:
            return -1
        lengths = np.add.reduceat((codes & 31) << 5 * digit, first)
        negative = codes[last] & 16 != 0
        lengths = lengths - (negative << 5 * (last - first + 1))
        lengths[1::2] = lengths[1::2].cumsum()
        lengths[2::2] = lengths[2::2].cumsum()
    else:
        try:
            lengths = np.asarray(counts, dtype=np.float64)
        except (TypeError, ValueError):
            return -1
    if lengths.ndim != 1 or (lengths < 0).any() or not np.isfinite(lengths).all():
        return -1
    return int(lengths.sum())
