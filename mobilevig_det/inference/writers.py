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
    'classes': 'predictions.json',  # of a classifier
    'parquet': 'predictions.parquet',
}
BATCH = 1000  # records of Parquet in memory at once
BATCHES = 100  # in a file


def check_format(format: str) -> None:
    """Raise a UserError, before anything is done, if it can't be written here."""
    if format != 'parquet':
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'--format parquet needs pyarrow ({error}): pip install pyarrow'
        ) from error


class Summary:
    """Counts detections by class while records are written.

    Args:
        categories (Mapping[int, str]): Names of the classes, by id.

    Attributes:
        images (int): Images and frames that were predicted.
    """

    def __init__(self, categories: Mapping[int, str]) -> None:
        self._categories = categories
        self._counts = dict.fromkeys(categories, 0)
        self._images = dict.fromkeys(categories, 0)
        self._scores = dict.fromkeys(categories, 0.0)
        self.images = 0

    def add(self, record: Mapping[str, Any]) -> None:
        self.images += record['width'] is not None and record['error'] is None
        for label, score in zip(record['labels'], record['scores']):
            self._counts[label] += 1
            self._scores[label] += score
        for label in set(record['labels']):
            self._images[label] += 1

    @property
    def detections(self) -> int:
        return sum(self._counts.values())

    def table(self) -> list[tuple]:
        """Return (class, detections, images with one, mean score) of the classes that
        were found, the most frequent first."""
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
    """Write one file, or folder, of all records, atomically.

    Args:
        out_dir (str): The folder.
        format (str): One of ``FORMATS``.
        records (Iterable[dict]): In the order of the inputs; iterated several times.
        categories (Mapping[int, str]): Names of the classes, by id.
        image_ids (Mapping[str, int]): Of the test set's images, by real path.

    Returns:
        tuple[str, Summary]: The path, and what is in it.

    Raises:
        OSError: If it can't be written. An older result is kept.
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
    """Return category ids of a model's classes, and image ids by real path.

    They are those of the config's test set, if its file is there and has all classes;
    otherwise 1, 2, 3, … and none.
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
            continue  # it was only wanted for its ids
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
    """Write images, categories and, as annotations with a ``score``, the detections.

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


def _write_items(file: TextIO, items: Iterable[dict]) -> None:
    for number, item in enumerate(items):
        file.write(', ' * (number > 0) + json.dumps(item))


def _numbered(
    records: Iterable[dict], image_ids: Mapping[str, int]
) -> Iterator[tuple[int, dict]]:
    """Yield (image id, record) of the images that were predicted, in order.

    Images outside the test set are numbered on from its largest id; one that could be
    decoded and not be preprocessed takes a number, too. An image of the test set that
    has several names among the inputs is listed once.
    """
    number = 1 + max((i for i in image_ids.values() if isinstance(i, int)), default=0)
    listed: set[int] = set()
    for record in records:
        if record['width'] is None:
            continue
        id = None
        if image_ids:
            name = record['image'].replace('\0', '')  # of a tar shard
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
    """Write a folder of Parquet files, a batch of records at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .parquet_store import arrow_schema

    def rows() -> Iterator[dict]:
        for record in records:
            # Not those of complete videos: what was found is in their frames'.
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
    """Write a JSON list of a ``file_name`` and its ``classes``, each with a ``name``
    and a ``score``."""
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
    """Print a line for each image that a classifier could use."""
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
