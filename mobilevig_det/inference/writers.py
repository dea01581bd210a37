"""Write the records of a run as COCO JSON, Parquet, or a list of classes."""

import json
import os.path as osp
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, TextIO

import pycocotools.mask as mask_utils
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets import leaf_datasets
from ..errors import UserError
from ..io import atomic_write
from .names import printable

FORMATS = {
    'coco': 'predictions.json',
    'classes': 'predictions.json',  # for classifiers
    'parquet': 'predictions.parquet',
}
BATCH = 1000  # Parquet records in memory at a time.
BATCHES = 100  # Maximum number of batches in a Parquet file.


def check_format(format: str) -> None:
    """Check, before the run starts, that a format can be written.

    Args:
        format (str): The value of ``--format``.

    Raises:
        UserError: If a package that the format needs is missing.
    """
    if format != 'parquet':
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--format parquet needs pyarrow ({error}): pip install pyarrow'
        ) from error


class Summary:
    """Statistics of detections by class, collected while records are written.

    Args:
        categories (Mapping[int, str]): Class name by category id.

    Attributes:
        images (int): Number of images and frames that were predicted.
    """

    def __init__(self, categories: Mapping[int, str]) -> None:
        self._categories = categories
        self._counts = dict.fromkeys(categories, 0)
        self._images = dict.fromkeys(categories, 0)
        self._scores = dict.fromkeys(categories, 0.0)
        self.images = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the predictions of a :class:`.results.Record`."""
        self.images += record['width'] is not None and record['error'] is None
        for label, score in zip(record['labels'], record['scores']):
            self._counts[label] += 1
            self._scores[label] += score
        for label in set(record['labels']):
            self._images[label] += 1

    @property
    def detections(self) -> int:
        """Total number of detections."""
        return sum(self._counts.values())

    def table(self) -> list[tuple]:
        """Return a row for each class with detections, the most frequent class first.

        Returns:
            list[tuple]: Class name, number of detections, number of images with at
            least one, and mean score.
        """
        found = [
            (name, count, self._images[id], self._scores[id] / count)
            for id, name in self._categories.items()
            if (count := self._counts[id])
        ]
        return sorted(found, key=lambda row: -row[1])


def write_result(
    out_dir: str,
    format: str,
    records: Iterable[dict],
    categories: Mapping[int, str],
    image_ids: Mapping[str, int],
) -> tuple[str, Summary]:
    """Write all records atomically to one file or folder.

    Args:
        out_dir (str): The output folder.
        format (str): A key of ``FORMATS``.
        records (Iterable[dict]): The records in the order of the inputs; iterated
            several times.
        categories (Mapping[int, str]): Class name by category id.
        image_ids (Mapping[str, int]): Image id by real path, of the test set's images.

    Returns:
        tuple[str, Summary]: The path of the result, and its statistics.

    Raises:
        OSError: If the result can't be written. An older result is kept.
    """
    path, summary = osp.join(out_dir, FORMATS[format]), Summary(categories)
    if format == 'parquet':
        _write_parquet(path, records, categories, summary)
    elif format == 'classes':
        _write_classes(path, records, categories, summary)
    else:
        _write_coco(path, records, categories, image_ids, summary)
    return path, summary


def read_test_set(
    classes: Sequence[str], cfg: Config | None
) -> tuple[list[int], dict[str, int]]:
    """Return the category ids of a model's classes and the image ids of its test set.

    Args:
        classes (Sequence[str]): Names of the classes, by label.
        cfg (Config | None): The config with the test set.

    Returns:
        tuple[list[int], dict[str, int]]: The category ids by label, and the image ids
        by real path. If the annotation file is not available or lacks classes, the
        categories are numbered from 1 and there are no image ids.
    """
    category_ids = list(range(1, len(classes) + 1))
    image_ids: dict[str, int] = {}
    for dataset_cfg in leaf_datasets(cfg.test_dataloader.dataset) if cfg else ():
        dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
        try:
            with open(dataset.ann_file, encoding='utf-8') as file:
                content = json.load(file)
            ids = {c['name']: c['id'] for c in content['categories']}
            folder = dataset.data_prefix.get('img') or ''
            paths = {
                osp.realpath(osp.join(folder, image['file_name'])): image['id']
                for image in content['images']
            }
        except (OSError, ValueError, LookupError, TypeError):
            continue  # The annotation file is optional.
        if set(classes) <= set(ids):
            category_ids = [ids[name] for name in classes]
            image_ids.update(paths)
    return category_ids, image_ids


def _write_coco(
    path: str,
    records: Iterable[dict],
    categories: Mapping[int, str],
    image_ids: Mapping[str, int],
    summary: Summary,
) -> None:
    """Write COCO JSON, in which annotations with a ``score`` are the detections.

    ``pycocotools.coco.COCO(path)`` loads the file; ``COCO.loadRes`` takes the list
    under ``annotations``.
    """

    def images() -> Iterator[dict]:
        for id, record in _numbered(records, image_ids):
            summary.add(record)
            image = dict(
                id=id,
                file_name=record['image'],
                width=record['width'],
                height=record['height'],
            )
            if 'frame' in record:
                image.update(video=record['video'], frame=record['frame'])
            yield image

    def annotations() -> Iterator[dict]:
        numbers = count(1)
        for id, record in _numbered(records, image_ids):
            for one in coco_annotations(record, id):
                yield dict(id=next(numbers), **one)

    names = [dict(id=id, name=name) for id, name in categories.items()]
    with atomic_write(path) as part, part.open('w', encoding='utf-8') as file:
        info = json.dumps(dict(description='Detections of mobilevig_det'))
        file.write(f'{{"info": {info}, "images": [')
        _write_items(file, images())
        file.write('], "annotations": [')
        _write_items(file, annotations())
        file.write(f'], "categories": {json.dumps(names)}}}')


def coco_annotations(record: Mapping[str, Any], image_id: int) -> Iterator[dict]:
    """Yield the detections of a record as COCO annotations without ``id``.

    Args:
        record (Mapping): A record of a detector.
        image_id (int): The id of the image.

    Yields:
        dict: Each annotation, with ``bbox`` and ``area`` in pixels and a ``score``.
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


def _write_items(file: TextIO, items: Iterable[dict]) -> None:
    for number, item in enumerate(items):
        file.write(', ' * (number > 0) + json.dumps(item))


def _numbered(
    records: Iterable[dict], image_ids: Mapping[str, int]
) -> Iterator[tuple[int, dict]]:
    """Yield (image id, record) of the images that were predicted, in input order.

    Images outside the test set are numbered from the test set's largest id plus one. An
    image that was decoded but not preprocessed takes a number as well. An image of the
    test set that occurs under several names is yielded once.
    """
    number = 1 + max((i for i in image_ids.values() if isinstance(i, int)), default=0)
    listed: set[int] = set()
    for record in records:
        if record['width'] is None:
            continue
        id = None
        if image_ids:
            name = record['image'].replace('\0', '')  # can occur in tar shards
            id = image_ids.get(osp.realpath(name))
        if id is None:
            id, number = number, number + 1
        if record['error'] is None and id not in listed:
            if image_ids:
                listed.add(id)
            yield id, record


def _write_parquet(
    folder: str,
    records: Iterable[dict],
    categories: Mapping[int, str],
    summary: Summary,
) -> None:
    """Write a folder of Parquet files, with one batch of records in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .parquet_store import arrow_schema

    def rows() -> Iterator[dict]:
        for record in records:
            # A video's own record is left out: its frames have the detections.
            if record['width'] is not None or record['error'] is not None:
                summary.add(record)
                yield dict(record, image=printable(record['image']))

    schema, left = arrow_schema(categories), rows()
    with atomic_write(folder) as part:
        part.mkdir()
        number, batch = 0, None
        while batch is None or len(batch) == BATCH:
            path = part / f'{number:05}.parquet'
            with pq.ParquetWriter(path, schema, compression='zstd') as writer:
                for _ in range(BATCHES):
                    batch = list(islice(left, BATCH))
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                    if len(batch) < BATCH:
                        break
            number += 1


def _write_classes(
    path: str, records: Iterable[dict], categories: Mapping[int, str], summary: Summary
) -> None:
    """Write a JSON list with the classes of each image.

    Each item has a ``file_name`` and ``classes``, a list of ``name`` and ``score``.
    """
    with atomic_write(path) as part, part.open('w', encoding='utf-8') as file:
        start = '['
        for record in _used(records):
            summary.add(record)
            classes = [dict(name=n, score=s) for n, s in _named(record, categories)]
            item = dict(file_name=record['image'], classes=classes)
            text = textwrap.indent(json.dumps(item, indent=1), ' ')
            file.write(f'{start}\n{text}')
            start = ','
        file.write('[]' if start == '[' else '\n]')


def print_classes(records: Iterable[dict], categories: Mapping[int, str]) -> None:
    """Print a line with the best classes of each image.

    Args:
        records (Iterable[dict]): Records of a classifier; those with an error are
            left out.
        categories (Mapping[int, str]): Class name by category id.
    """
    for record in _used(records):
        classes = ', '.join(f'{n} {s:.3f}' for n, s in _named(record, categories))
        print(printable(f'{record["image"]}: {classes}'))


def _used(records: Iterable[dict]) -> Iterator[dict]:
    return (record for record in records if record['error'] is None)


def _named(
    record: Mapping[str, Any], categories: Mapping[int, str]
) -> Iterator[tuple[str, float]]:
    labels, scores = record['labels'], record['scores']
    return ((categories[id], score) for id, score in zip(labels, scores))
