"""Schema of a detection record.

One record describes one image or video frame. It is a line of JSON in the ``rows/`` of
the local and torchrun executors, and a row of Parquet in those of the Ray executor.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import pycocotools.mask as mask_utils

if TYPE_CHECKING:
    import pyarrow


class Record(TypedDict):
    """What a model found in an image or a frame.

    ``image`` is its name and ``place`` its position among the inputs. ``boxes`` are
    [x, y, width, height] in pixels of the image, ``labels`` category ids and ``masks``
    COCO's RLE, ``{'size': [height, width], 'counts': text}``, or None if the model
    predicts none. A classifier's record has labels and scores of the best classes and
    no boxes. ``error`` says why an image could not be used; then there are no
    detections, and no size if it could not be decoded. Frames also have ``video`` and
    ``frame``; a completed video has a record of its own with its number of ``frames``.
    """

    place: int
    image: str
    width: int | None
    height: int | None
    boxes: list[list[float]]
    labels: list[int]
    scores: list[float]
    masks: list[dict] | None
    error: str | None


def empty_record(
    place: int,
    image: str,
    error: str | None,
    width: int | None = None,
    height: int | None = None,
) -> Record:
    """Return the record of an input without detections: one that could not be used, or
    a completed video (``error`` None)."""
    return Record(
        place=place,
        image=image,
        width=width,
        height=height,
        boxes=[],
        labels=[],
        scores=[],
        masks=None,
        error=error,
    )


def is_record(value: Any) -> bool:
    """Whether parsed JSON has the fields that this package reads."""
    if not isinstance(value, dict) or not isinstance(value.get('image'), str):
        return False
    numbers = [value.get(key, 0) for key in ('place', 'frame', 'frames')]
    lists = [value.get(key, 0) for key in ('boxes', 'labels', 'scores')]
    return (
        all(type(number) is int and abs(number) < 2**31 for number in numbers)
        and all(isinstance(items, list) for items in lists)
        and len(lists[1]) == len(lists[2])
        and {'place', 'width', 'height', 'masks', 'error'} <= value.keys()
    )


def coco_annotations(record: Mapping[str, Any], image_id: int) -> Iterator[dict]:
    """Yield a record's detections as COCO annotations without ids.

    Args:
        record (Mapping): A record of a detector.
        image_id (int): The image's id.
    """
    masks = record['masks'] or [None] * len(record['boxes'])
    for box, label, score, mask in zip(
        record['boxes'], record['labels'], record['scores'], masks
    ):
        found = dict(image_id=image_id, category_id=label, score=score, iscrowd=0)
        if mask is None:
            yield dict(found, bbox=box, area=box[2] * box[3])
        else:
            area = float(mask_utils.area(mask))
            yield dict(found, area=area, bbox=box, segmentation=mask)


def arrow_schema(categories: Mapping[int, str]) -> 'pyarrow.Schema':
    """Return the columns of records in Parquet.

    Args:
        categories (Mapping[int, str]): Names of the classes by category id. They are
            stored as JSON in the schema's metadata, under ``categories``.
    """
    import pyarrow as pa

    mask = pa.struct([('size', pa.list_(pa.int32())), ('counts', pa.string())])
    return pa.schema(
        [
            ('place', pa.int64()),
            ('image', pa.string()),
            ('width', pa.int32()),
            ('height', pa.int32()),
            ('boxes', pa.list_(pa.list_(pa.float64()))),
            ('labels', pa.list_(pa.int64())),
            ('scores', pa.list_(pa.float64())),
            ('masks', pa.list_(mask)),
            ('error', pa.string()),
        ],
        {'categories': json.dumps(categories)},
    )


def utf8(name: str) -> str:
    """Return a name as Parquet stores it: bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(name).decode(errors='backslashreplace')
