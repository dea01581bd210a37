"""Rows as one file in COCO's format."""

import json
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence

import pycocotools.mask as mask_utils
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets import leaf_datasets
from ..io import atomic_write
from .detection_rows import Row


def read_test_set(
    classes: Sequence[str], cfg: Config
) -> tuple[list[int], dict[str, int]]:
    """Category ids of a model's classes, and image ids by real path: those of the
    config's test set where it is at hand and has all classes, else 1, 2, … and none.
    """
    category_ids = list(range(1, len(classes) + 1))
    image_ids: dict[str, int] = {}
    for dataset_cfg in leaf_datasets(cfg.test_dataloader.dataset):
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
            continue  # no such set here: it was only wanted for its ids
        if set(classes) <= set(ids):
            category_ids = [ids[name] for name in classes]
            image_ids.update(paths)
    return category_ids, image_ids


def write_coco(
    path: str,
    rows: Iterable[dict],
    categories: dict[int, str],
    image_ids: dict[str, int],
    summary: 'Summary',
) -> None:
    """Write one COCO-format file, an image at a time, whole or not at all.

    ``pycocotools.coco.COCO(path)`` loads the file: it has the images, the
    categories and, as annotations with a ``score``, the detections. The list
    under ``annotations`` is what ``COCO.loadRes`` takes.

    Args:
        path (str): The file.
        rows (Iterable[dict]): In the order of the inputs; gone through twice, and
            once more where the test set is at hand.
        categories (dict[int, str]): The names of the classes.
        image_ids (dict[str, int]): Of the test set's images, by their real paths.
            Other images are numbered on from the largest.
        summary (Summary): Counts the rows.

    Raises:
        OSError: If it can't be written; what was there before still is.
    """
    numbered = _Numbered(rows, image_ids)

    def counted_image(item: tuple[int, dict]) -> dict:
        summary.add(item[1])
        return _image(*item)

    def write(part: str) -> None:
        with open(part, 'w', encoding='utf-8') as file:
            info = json.dumps(dict(description='Detections of mobilevig_det'))
            file.write(f'{{"info": {info}, "images": [')
            _write_items(file, map(counted_image, numbered))
            file.write('], "annotations": [')
            found = (item for id, row in numbered for item in annotations(row, id))
            _write_items(file, (dict(id=n, **item) for n, item in enumerate(found, 1)))
            names = [dict(id=id, name=name) for id, name in categories.items()]
            file.write(f'], "categories": {json.dumps(names)}}}')

    with atomic_write(path) as part:
        write(str(part))


def _write_items(file, items: Iterable[dict]) -> None:
    for number, item in enumerate(items):
        file.write(', ' * (number > 0) + json.dumps(item))


def _image(id: int, row: dict) -> dict:
    image = dict(
        id=id, file_name=row['image'], width=row['width'], height=row['height']
    )
    if 'frame' in row:
        image.update(video=row['video'], frame=row['frame'])
    return image


def annotations(row: Row | dict, image_id: int) -> Iterator[dict]:
    """A row's detections as COCO has them, but for their ids."""
    masks = row['masks'] or [None] * len(row['boxes'])
    for box, label, score, mask in zip(
        row['boxes'], row['labels'], row['scores'], masks
    ):
        detection = dict(image_id=image_id, category_id=label, score=score, iscrowd=0)
        if mask is None:
            yield dict(detection, bbox=box, area=box[2] * box[3])
        else:
            area = float(mask_utils.area(mask))
            yield dict(detection, area=area, bbox=box, segmentation=mask)


class _Numbered:
    """(image id, row) of the images that the model has looked at, in order.

    An image that could be read and not be prepared takes a number, too. One of the
    test set that has two names here has one id: it is where its first name is, with
    what its last name has.
    """

    def __init__(self, rows: Iterable[dict], image_ids: dict[str, int]) -> None:
        self._rows = rows
        self._ids = image_ids
        numbers = (id for id in image_ids.values() if isinstance(id, int))
        self._first = 1 + max(numbers, default=0)
        self._twins: dict[int, dict] = {}
        if image_ids:
            self._find_twins()

    def _find_twins(self) -> None:
        once: set[int] = set()
        twice: set[int] = set()
        for id, _ in self._number():
            (twice if id in once else once).add(id)
        if twice:
            self._twins = {id: row for id, row in self._number() if id in twice}

    def _number(self) -> Iterator[tuple[int, dict]]:
        number = self._first
        for row in self._rows:
            if row['width'] is None:
                continue
            id = None
            if self._ids:
                id = self._ids.get(osp.realpath(row['image']))
            if id is None:
                id, number = number, number + 1
            if row['error'] is None:
                yield id, row

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        done = set()
        for id, row in self._number():
            if id not in self._twins:
                yield id, row
            elif id not in done:
                done.add(id)
                yield id, self._twins[id]


class Summary:
    """Counts detections by class, as the rows go by.

    Args:
        categories (dict[int, str]): The names of the classes.
    """

    def __init__(self, categories: dict[int, str]) -> None:
        self._categories = categories
        self._counts = dict.fromkeys(categories, 0)
        self._images = dict.fromkeys(categories, 0)
        self._scores = dict.fromkeys(categories, 0.0)
        self.images = 0

    def add(self, row: dict) -> None:
        self.images += row['width'] is not None and row['error'] is None
        for label, score in zip(row['labels'], row['scores']):
            self._counts[label] += 1
            self._scores[label] += score
        for label in set(row['labels']):
            self._images[label] += 1

    @property
    def detections(self) -> int:
        return sum(self._counts.values())

    def table(self) -> list[tuple]:
        """(class, detections, images with one, mean score), most frequent first;
        only classes that were found."""
        found = [
            (name, count, self._images[id], self._scores[id] / count)
            for id, name in self._categories.items()
            if (count := self._counts[id])
        ]
        return sorted(found, key=lambda row: -row[1])
