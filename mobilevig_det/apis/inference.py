"""Run a trained detector over pictures, by MMDetection's own inferencer."""

import json
import os
import os.path as osp
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..backbones import fuse_backbones
from ..datasets.data_paths import leaf_datasets
from ..errors import UserError

# Above this, masks are computed and pictures drawn at the size that the
# model sees: a hundred masks of a gigapixel don't fit into a memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15
# Pictures that wait for others of their size to fill a batch.
MAX_WAITING = 64


class Picture(NamedTuple):
    """Something to be looked at."""

    name: str
    image: np.ndarray  # uint8, (H, W, 3), BGR
    id: int  # from CocoResults.expect


class Prediction(NamedTuple):
    """What the model sees in a picture.

    ``sample`` is MMDetection's, for ``drawable``: the picture, or, if that
    is very large, the picture as the model sees it. ``scale`` leads from the
    one to the other.
    """

    picture: Picture
    sample: DetDataSample
    drawable: np.ndarray
    scale: tuple  # (x, y) of drawable / picture


class NoPicture(NamedTuple):
    """A picture that the test pipeline can't prepare."""

    picture: Picture
    reason: str


class Inferencer(DetInferencer):
    """MMDetection's inferencer, for pictures that come one after another.

    Refuses a checkpoint that would leave random weights in the model, and
    takes the names of the classes from the config if the checkpoint has
    none. Fuses the backbone, if it is a MobileViG.
    """

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        try:
            _load_checkpoint_to_model(model, checkpoint, strict=True)
        except RuntimeError as error:
            raise UserError(
                'The checkpoint does not fit the config: use the config that '
                'it was trained with (a copy lies in its work dir).\n'
                f'{error}'
            ) from error
        meta = checkpoint.setdefault('meta', {})
        if 'dataset_meta' not in meta and 'CLASSES' not in meta:
            dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
            meta['dataset_meta'] = dataset.metainfo
        super()._load_weights_to_model(model, checkpoint, cfg)
        fuse_backbones(model.eval())

    def _init_collate(self, cfg):
        if 'collate_fn' in cfg.test_dataloader:
            return super()._init_collate(cfg)
        return pseudo_collate  # the same, without a warning

    @property
    def classes(self) -> tuple:
        return tuple(self.model.dataset_meta['classes'])

    def predict(self, pictures: Iterable[Picture], batch_size: int) -> Iterator:
        """Yield a :class:`Prediction` or :class:`NoPicture` for each picture.

        Only pictures that are padded to the same size share a batch: the
        graph step wraps round the padded map, so that a model sees other
        features in a picture that is padded further. What comes out does
        not depend on the batch size, but for rounding. Pictures of one size
        stay in order.
        """
        waiting: dict[tuple, list[tuple]] = defaultdict(list)
        for picture in pictures:
            try:
                data = self.pipeline(dict(img=picture.image))
            except Exception as error:
                # It depends on the picture: one of 20,000 x 1 pixels can't
                # be scaled down, for example.
                reason = getattr(error, 'err', None) or str(error) or repr(error)
                height, width = picture.image.shape[:2]
                yield NoPicture(
                    picture,
                    f'the test pipeline cannot prepare its {width} '
                    f'x {height} pixels ({reason.strip().splitlines()[0]})',
                )
                continue
            scale = self._at_model_size(picture, data)
            batch = waiting[self._padded_size(data)]
            batch.append((picture, data, scale))
            if len(batch) >= batch_size:
                yield from self._run(batch)
                batch.clear()
            elif sum(map(len, waiting.values())) >= MAX_WAITING:
                batch = max(waiting.values(), key=len)
                yield from self._run(batch)
                batch.clear()
        for batch in waiting.values():
            if batch:
                yield from self._run(batch)

    def _padded_size(self, data: dict) -> tuple:
        divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1)
        return tuple(-(-side // divisor) for side in data['inputs'].shape)

    @staticmethod
    def _at_model_size(picture: Picture, data: dict) -> tuple | None:
        """Have a very large picture's boxes and masks at the model's scale;
        return this scale."""
        height, width = picture.image.shape[:2]
        if height * width <= MAX_PIXELS and max(height, width) <= MAX_SIDE:
            return None
        sample = data['data_samples']
        scale = sample.metainfo.get('scale_factor', (1.0, 1.0))
        sample.set_metainfo(dict(ori_shape=sample.img_shape, scale_factor=(1.0, 1.0)))
        return tuple(scale)

    def _run(self, batch: list[tuple]) -> Iterator[Prediction]:
        try:
            samples = self.forward(self.collate_fn([data for _, data, _ in batch]))
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                'The GPU has too little memory: use a smaller --batch-size, '
                'or --device cpu.'
            ) from error
        for (picture, _, scale), sample in zip(batch, samples):
            image = picture.image
            if scale is not None:
                height, width = sample.ori_shape
                image = cv2.resize(image, (width, height))
            yield Prediction(picture, sample.cpu(), image, scale or (1.0, 1.0))

    def draw(self, prediction: Prediction, score_thr: float) -> np.ndarray:
        """The picture with boxes, masks and names drawn, by the config's
        visualizer; uint8, (H, W, 3), BGR."""
        sample = prediction.sample
        instances = sample.pred_instances
        if 'bboxes' in instances:
            # A box of no area, in a picture one pixel wide, has no place.
            sides = instances.bboxes[:, 2:] - instances.bboxes[:, :2]
            sample = sample.new()
            sample.pred_instances = instances[(sides > 0).all(1)]
        with warnings.catch_warnings():
            # It warns of every contour that touches the edge.
            warnings.filterwarnings('ignore', '.*out of bounds')
            self.visualizer.add_datasample(
                prediction.picture.name,
                np.ascontiguousarray(prediction.drawable[..., ::-1]),
                sample,
                draw_gt=False,
                pred_score_thr=score_thr,
            )
        return np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])


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
        self._category_ids = list(range(1, len(classes) + 1))
        self._image_ids: dict[str, int] = {}
        self._read_test_set(cfg)
        self._next_id = 1 + max(
            (id for id in self._image_ids.values() if isinstance(id, int)), default=0
        )

    def _read_test_set(self, cfg: Config) -> None:
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
            if set(self.classes) <= set(ids):
                self._category_ids = [ids[name] for name in self.classes]
                self._image_ids.update(paths)

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
        image_id = prediction.picture.id
        instances = prediction.sample.pred_instances
        instances = instances[instances.scores >= self.score_thr]
        height, width = prediction.picture.image.shape[:2]
        boxes = instances.get('bboxes')
        masks = instances.get('masks')
        if boxes is not None:
            x, y = prediction.scale
            boxes = boxes.numpy() / (x, y, x, y)
        found = self._found[image_id] = []
        for i, (label, score) in enumerate(
            zip(instances.labels.tolist(), instances.scores.tolist())
        ):
            detection = dict(
                image_id=image_id,
                category_id=self._category_ids[label],
                score=score,
                iscrowd=0,
            )
            if masks is not None:
                rle = _encode(masks[i].numpy(), height, width)
                detection['area'] = float(mask_utils.area(rle))
                detection['bbox'] = mask_utils.toBbox(rle).tolist()
                detection['segmentation'] = dict(
                    size=[height, width], counts=rle['counts'].decode()
                )
            if boxes is not None:
                x1, y1, x2, y2 = boxes[i].tolist()
                detection['bbox'] = [x1, y1, x2 - x1, y2 - y1]
                detection.setdefault('area', (x2 - x1) * (y2 - y1))
            found.append(detection)

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


def _encode(mask: np.ndarray, height: int, width: int) -> dict:
    mask = mask.astype(np.uint8)
    if mask.shape != (height, width):  # of a very large picture
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return mask_utils.encode(np.asfortranarray(mask))
