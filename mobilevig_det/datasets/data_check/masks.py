"""Masks of annotations: polygons and COCO's run lengths (RLE)."""

import math

import pycocotools.mask as mask_utils

from ..masks import count_rle_pixels
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
    elif count_rle_pixels(counts) != size[0] * size[1]:
        # pycocotools reads on past its end, or refuses it.
        add(
            'RLE mask that does not fill its size',
            True,
            name,
            f'{count_rle_pixels(counts)} pixels instead of {size[0]} * {size[1]}',
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
