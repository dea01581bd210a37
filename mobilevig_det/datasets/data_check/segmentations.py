"""Check the segmentation of one annotation: polygons or run lengths (RLE)."""

import math
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils

from ..masks import count_rle_pixels
from .report import short

# pycocotools takes minutes, or forever, to draw polygons that reach farther out, and
# 80 bytes of memory for a pixel of their outlines.
MAX_COORDINATE = 1e6
MAX_PERIMETER = 1e7


class MaskProblem(NamedTuple):
    """What is wrong with a segmentation.

    Attributes:
        kind: What is wrong, in the same words for all of a kind.
        stops: Whether it stops training.
        detail: What was found.
        is_usable: Whether MMDetection loads the mask nevertheless.
    """

    kind: str
    stops: bool
    detail: str
    is_usable: bool = False


def mask_problem(mask, height: int, width: int, scored: bool) -> MaskProblem | None:
    """Find what is wrong with a segmentation.

    Args:
        mask: Value of ``segmentation``, of any type.
        height (int): Height of the image, in pixels.
        width (int): Width of the image, in pixels.
        scored (bool): Whether an evaluator reads it, too.

    Returns:
        MaskProblem | None: The problem, if there is one.
    """
    if not mask:
        return MaskProblem('has no "segmentation"', True, 'the model learns masks')
    if isinstance(mask, dict):
        return _rle_problem(mask, height, width)
    if isinstance(mask, list):
        return _polygon_problem(mask, height, width, scored)
    return MaskProblem('"segmentation" is neither polygons nor RLE', True, short(mask))


def _rle_problem(mask: dict, height: int, width: int) -> MaskProblem | None:
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(counts, (list, str)) or not isinstance(size, list):
        return MaskProblem('RLE mask without "size" or "counts"', True, short(mask))
    if size != [height, width] or any(type(side) is not int for side in size):
        detail = f'{short(size)} instead of {[height, width]} (height, width)'
        return MaskProblem('RLE mask of another size than its image', True, detail)
    number = count_rle_pixels(counts)
    if number != height * width:
        # pycocotools reads past the end of its memory, or refuses it.
        detail = f'{number} pixels instead of {height} * {width}'
        if number < 0:
            detail = f'counts {short(counts)} are not integers from 0'
        return MaskProblem('RLE mask that does not fill its size', True, detail)
    return None


def _polygon_problem(
    polygons: list, height: int, width: int, scored: bool
) -> MaskProblem | None:
    if not all(isinstance(p, list) and are_numbers(p) for p in polygons):
        kind = 'polygon that is not a list of finite numbers'
        return MaskProblem(kind, True, short(polygons))
    if any(_perimeter_exceeds(p, MAX_PERIMETER) for p in polygons):
        kind = f'polygon with an outline of over {MAX_PERIMETER:.0e} pixels'
        return MaskProblem(kind, True, short(polygons))
    invalid = [p for p in polygons if len(p) < 6 or len(p) % 2]
    if not invalid:
        return None
    kind, detail = 'polygon with an odd number of coordinates', short(invalid[0])
    if len(invalid[0]) < 6:
        kind = 'polygon of two points or fewer'
    stops = False
    if scored:
        # MMDetection skips such polygons; pycocotools may not.
        try:
            mask_utils.frPyObjects(polygons, height, width)
        except Exception:
            stops = True
            detail += ' (pycocotools fails on it)'
    return MaskProblem(kind, stops, detail, is_usable=len(invalid) < len(polygons))


def _perimeter_exceeds(polygon: list, limit: float) -> bool:
    """Whether the outline of a polygon, in pixels, is longer than a limit."""
    if not polygon or len(polygon) * (max(polygon) - min(polygon)) <= limit:
        return False  # in any case
    points = np.array(polygon[: len(polygon) // 2 * 2], dtype=float).reshape(-1, 2)
    steps = abs(np.diff(points, axis=0, append=points[:1]))
    return steps.max(1).sum() > limit


def are_numbers(values: list, limit: float = MAX_COORDINATE) -> bool:
    """Whether all are numbers within (-limit, limit), none of them NaN."""
    try:
        # The comparisons come first: a sum of huge integers is not a float.
        return not values or (
            max(values) < limit and min(values) > -limit and math.isfinite(sum(values))
        )
    except TypeError:
        return False
