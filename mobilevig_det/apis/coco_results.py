"""Predictions as one file in COCO's format."""

import json
import os
import os.path as osp
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_utils
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets import leaf_datasets
from .detection_rows import Row, found_row
from .inference import Prediction


class CocoResults:
    """Collects predictions, and writes them as one COCO-format file.

    ``pycocotools.coco.COCO(path)`` loads the file: it has the images, the
    categories and, as annotations with a ``score``, the detections. The list
    under ``annotations`` is what ``COCO.loadRes`` takes.

    Ids are those of the config's test set where it has the class or the very
    file; other images are numbered on from the largest id, and the classes
    of a model without a test set at hand from 1.

    Args:
        classes (tuple[str]): The model's classes.
        cfg (Config): The model's config.
        score_thr (float): Detections under it are left out.
    """

    def __init__(self, classes: tuple, cfg: Config, score_thr: float) -> None:
        self.classes = classes
        self.score_thr = score_thr
        self._expected: dict[int, dict] = {}
        self._found: dict[int, list[dict]] = {}
        self._category_ids, self._image_ids = read_test_set(classes, cfg)
        self._next_id = 1 + max(
            (id for id in self._image_ids.values() if isinstance(id, int)), default=0
        )

    def expect(self, name: str, image: np.ndarray, **more) -> int:
        """The id for an image that will be looked at.

        Args:
            name (str): Its path, or another name.
            image (np.ndarray): Of shape (H, W, 3).
            **more: What else the file shall say of it.
        """
        id = self._image_ids.get(osp.realpath(name))
        if id is None:
            id = self._next_id
            self._next_id += 1
        height, width = image.shape[:2]
        self._expected[id] = dict(
            id=id, file_name=name, width=width, height=height, **more
        )
        return id

    def add(self, prediction: Prediction) -> None:
        """Add what was found in an image."""
        row = found_row(prediction, self._category_ids, self.score_thr)
        self._found[prediction.picture.id] = annotations(row, prediction.picture.id)

    @property
    def num_images(self) -> int:
        return len(self._found)

    @property
    def annotations(self) -> list[dict]:
        """The detections, image by image in the order of the inputs."""
        found = [
            detection for id in self._expected for detection in self._found.get(id, ())
        ]
        return [
            dict(id=number, **detection) for number, detection in enumerate(found, 1)
        ]

    def write(self, path: str) -> None:
        content = dict(
            info=dict(description='Detections of mobilevig_det'),
            images=[image for id, image in self._expected.items() if id in self._found],
            annotations=self.annotations,
            categories=[
                dict(id=id, name=name)
                for id, name in zip(self._category_ids, self.classes)
            ],
        )
        with open(f'{path}.part', 'w', encoding='utf-8') as file:
            json.dump(content, file)
        os.replace(f'{path}.part', path)

    def summary(self) -> list[tuple]:
        """(class, detections, images with one, mean score), most frequent
        first; only classes that were found."""
        annotations = self.annotations
        rows = []
        for id, name in zip(self._category_ids, self.classes):
            found = [a for a in annotations if a['category_id'] == id]
            images = {detection['image_id'] for detection in found}
            if found:
                score = sum(a['score'] for a in found) / len(found)
                rows.append((name, len(found), len(images), score))
        return sorted(rows, key=lambda row: -row[1])


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


def annotations(row: Row, image_id: int) -> list[dict]:
    """A row's detections as COCO has them, but for their ids."""
    found = []
    masks = row['masks'] or [None] * len(row['boxes'])
    for box, label, score, mask in zip(
        row['boxes'], row['labels'], row['scores'], masks
    ):
        detection = dict(image_id=image_id, category_id=label, score=score, iscrowd=0)
        if mask is None:
            detection.update(bbox=box, area=box[2] * box[3])
        else:
            area = float(mask_utils.area(mask))
            detection.update(area=area, bbox=box, segmentation=mask)
        found.append(detection)
    return found
