"""What is found in one image or frame, as a row of a table.

The same row is a line of JSON in ``tools/infer.py``'s ``rows/``, and a row of the
Parquet files that it and ``tools/infer_ray.py`` write.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import pycocotools.mask as mask_utils

from ..datasets.masks import encode_rle
from .inferencer import NoPicture, Prediction

if TYPE_CHECKING:
    import pyarrow


class Row(TypedDict):
    """An image or a frame.

    ``boxes`` are [x, y, width, height] in pixels of the image, ``labels`` category
    ids, ``masks`` COCO's run lengths, ``{'size': [height, width], 'counts': …}``, or
    None where the model makes none. The three lists before it are as long as there
    are detections; the best classes of a classifier are labels and scores, without
    boxes. ``error`` says why an image couldn't be used; then there are no detections,
    and no size where it couldn't even be read.
    """

    image: str
    width: int | None
    height: int | None
    boxes: list[list[float]]
    labels: list[int]
    scores: list[float]
    masks: list[dict] | None
    error: str | None


def found_row(
    prediction: Prediction | NoPicture, category_ids: Sequence[int], score_thr: float
) -> Row:
    """The row of an image that the model has looked at, or couldn't.

    Args:
        prediction (Prediction | NoPicture): What it saw.
        category_ids (Sequence[int]): Of the model's classes, in their order; see
            :func:`coco_results.read_test_set`.
        score_thr (float): Detections that score less are left out.
    """
    picture = prediction.picture
    height, width = picture.image.shape[:2]
    if isinstance(prediction, NoPicture):
        return error_row(picture.name, prediction.reason, width, height)
    instances = prediction.sample.pred_instances
    instances = instances[instances.scores >= score_thr]
    masks = None
    if 'masks' in instances:
        # Those of a very large image are at the size that the model sees.
        masks = encode_rle(instances.masks.numpy(), (height, width))
    if 'bboxes' in instances:
        x, y = prediction.scale
        corners = (instances.bboxes.numpy() / (x, y, x, y)).tolist()
        boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners]
    else:  # of a detector that makes masks only
        boxes = [mask_utils.toBbox(mask).tolist() for mask in masks or ()]
    return Row(
        image=picture.name,
        width=width,
        height=height,
        boxes=boxes,
        labels=[category_ids[label] for label in instances.labels.tolist()],
        scores=instances.scores.tolist(),
        masks=masks,
        error=None,
    )


def error_row(
    name: str, reason: str | None, width: int | None = None, height: int | None = None
) -> Row:
    """The row of an image that couldn't be used, without a size where it couldn't
    even be read; or, without a reason, of a video whose frames all have rows."""
    return Row(
        image=name,
        width=width,
        height=height,
        boxes=[],
        labels=[],
        scores=[],
        masks=None,
        error=reason,
    )


def arrow_schema() -> 'pyarrow.Schema':
    """The columns of rows in Parquet."""
    import pyarrow as pa

    mask = pa.struct([('size', pa.list_(pa.int32())), ('counts', pa.string())])
    return pa.schema(
        [
            ('image', pa.string()),
            ('width', pa.int32()),
            ('height', pa.int32()),
            ('boxes', pa.list_(pa.list_(pa.float64()))),
            ('labels', pa.list_(pa.int64())),
            ('scores', pa.list_(pa.float64())),
            ('masks', pa.list_(mask)),
            ('error', pa.string()),
        ]
    )


def utf8(name: str) -> str:
    """A name as Parquet takes it: bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(name).decode(errors='backslashreplace')
