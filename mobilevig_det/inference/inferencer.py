"""Run a trained model over pictures; a detector by MMDetection's own inferencer."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..backbones import fuse_backbones
from ..checkpoints import explain_mismatch
from ..errors import UserError
from ..ops.cpu_fast_paths import apply_cpu_fast_paths, cpu_fast_paths_enabled

# Above this, masks are computed and pictures drawn at the size that the
# model sees: a hundred masks of a gigapixel don't fit into a memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15
# Pictures that wait for others of their size to fill a batch.
MAX_WAITING = 64
# A batch takes no more pixels than one picture of COCO's recipe does, where its size
# is not given; more than a few small ones at once gain nothing.
BATCH_PIXELS = 800 * 1344
MAX_BATCH = 8


class Picture(NamedTuple):
    """Something to be looked at."""

    name: str
    image: np.ndarray  # uint8, (H, W, 3), BGR
    id: int  # its place among the inputs, or any other number
    video: str | None = None  # that it is a frame of
    frame: int | None = None  # its number there, from 0


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


class Prepared(NamedTuple):
    """A picture as the test pipeline makes it ready for the model."""

    picture: Picture
    data: dict
    scale: tuple | None  # of a very large picture: see Prediction
    size: tuple  # that it will be padded to, divided by the model's divisor


class SameSize:
    """Collects pictures into batches of one padded size.

    Args:
        batch_size (int | None): Of a full batch. None: as many as have
            ``BATCH_PIXELS``, at least one, at most ``MAX_BATCH``.
    """

    def __init__(self, batch_size: int | None) -> None:
        self.batch_size = batch_size
        self._waiting: dict[tuple, list[Prepared]] = {}

    def add(self, prepared: Prepared) -> list[Prepared] | None:
        """A batch if there is a full one now, or too many pictures wait."""
        batch = self._waiting.setdefault(prepared.size, [])
        batch.append(prepared)
        if len(batch) < self._full(prepared):
            if sum(map(len, self._waiting.values())) < MAX_WAITING:
                return None
            batch = max(self._waiting.values(), key=len)
        return self._waiting.pop(batch[0].size)

    def _full(self, prepared: Prepared) -> int:
        if self.batch_size is not None:
            return self.batch_size
        # As it was read, too: it is kept until the batch has been looked at.
        height, width = prepared.data['inputs'].shape[-2:]
        read_height, read_width = prepared.picture.image.shape[:2]
        pixels = max(height * width, read_height * read_width)
        return min(MAX_BATCH, max(1, BATCH_PIXELS // pixels))

    def rest(self) -> list[list[Prepared]]:
        """The batches that are not full; none waits any more."""
        batches, self._waiting = list(self._waiting.values()), {}
        return batches


class PictureModel:
    """A model that looks at pictures which come one after another.

    Attributes:
        model (BaseModel): MMEngine's, in its test mode.
        pipeline (Callable): Its test pipeline, but for the reading.
        collate_fn (Callable): Makes a batch of what the pipeline gives.
        no_videos (str | None): Why it doesn't look at videos, if it doesn't.
    """

    model: BaseModel
    pipeline: Callable[[dict], dict]
    collate_fn = staticmethod(pseudo_collate)
    no_videos: str | None = None

    def predict(self, pictures: Iterable[Picture], batch_size: int | None) -> Iterator:
        """Yield a :class:`Prediction` or :class:`NoPicture` for each picture, one after
        the other: the naive form of :func:`.overlap.overlapped`.

        Only pictures that are padded to the same size share a batch: the
        graph step wraps round the padded map, so that a model sees other
        features in a picture that is padded further. What comes out does
        not depend on the batch size, but for rounding. Pictures of one size
        stay in order.
        """
        groups = SameSize(batch_size)
        for picture in pictures:
            prepared = self.prepare(picture)
            if isinstance(prepared, NoPicture):
                yield prepared
            elif batch := groups.add(prepared):
                yield from self.look_at(batch)
        for batch in groups.rest():
            yield from self.look_at(batch)

    def prepare(self, picture: Picture) -> 'Prepared | NoPicture':
        """What the test pipeline makes of a picture. Threads may share it."""
        try:
            data = self.pipeline(dict(img=picture.image))
        except Exception as error:
            # It depends on the picture: one of 20,000 x 1 pixels can't
            # be scaled down, for example.
            reason = getattr(error, 'err', None) or str(error) or repr(error)
            height, width = picture.image.shape[:2]
            return NoPicture(
                picture,
                f'the test pipeline cannot prepare its {width} '
                f'x {height} pixels ({reason.strip().splitlines()[0]})',
            )
        scale = self._at_model_size(picture, data)
        return Prepared(picture, data, scale, self._padded_size(data))

    def _padded_size(self, data: dict) -> tuple:
        divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1)
        return tuple(-(-side // divisor) for side in data['inputs'].shape)

    def _at_model_size(self, picture: Picture, data: dict) -> tuple | None:
        """The scale of a very large picture's sample, where it isn't the picture's."""
        return None

    def look_at(
        self, batch: 'list[Prepared]', model: BaseModel | None = None
    ) -> list[Prediction]:
        """What a model sees in pictures that are padded to the same size.

        Args:
            batch (list[Prepared]): Of one size.
            model (BaseModel, optional): A copy of this one's, for a thread of its own.
                Defaults to None: this one's.
        """
        try:
            with torch.no_grad():
                samples = (model or self.model).test_step(
                    self.collate_fn([prepared.data for prepared in batch])
                )
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                'The GPU has too little memory: use a smaller --batch-size, '
                'or --device cpu.'
            ) from error
        predictions = []
        for (picture, _, scale, _), sample in zip(batch, samples):
            image = picture.image
            if scale is not None:
                height, width = sample.ori_shape
                image = cv2.resize(image, (width, height))
            predictions.append(
                Prediction(picture, sample.cpu(), image, scale or (1.0, 1.0))
            )
        return predictions

    def draw(self, prediction: Prediction, score_thr: float) -> np.ndarray:
        """The picture with what is seen in it; uint8, (H, W, 3), BGR."""
        raise NotImplementedError


class Inferencer(PictureModel, DetInferencer):
    """MMDetection's inferencer, for pictures that come one after another.

    Refuses a checkpoint that would leave random weights in the model, and
    takes the names of the classes from the config if the checkpoint has
    none. Fuses the backbone, if it is a MobileViG.
    """

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        if checkpoint is None:  # an exported model, which tells its classes itself
            model.dataset_meta['palette'] = 'random'
            return
        with explain_mismatch('The checkpoint'):
            _load_checkpoint_to_model(model, checkpoint, strict=True)
        meta = checkpoint.setdefault('meta', {})
        if 'dataset_meta' not in meta and 'CLASSES' not in meta:
            dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
            meta['dataset_meta'] = dataset.metainfo
        super()._load_weights_to_model(model, checkpoint, cfg)
        fuse_backbones(model.eval())
        if cpu_fast_paths_enabled(cfg):
            apply_cpu_fast_paths(model)

    def _init_collate(self, cfg):
        if 'collate_fn' in cfg.test_dataloader:
            return super()._init_collate(cfg)
        return pseudo_collate  # the same, without a warning

    @property
    def classes(self) -> tuple:
        return tuple(self.model.dataset_meta['classes'])

    def _at_model_size(self, picture: Picture, data: dict) -> tuple | None:
        """Have a very large picture's boxes and masks at the model's scale;
        return this scale."""
        height, width = picture.image.shape[:2]
        if height * width <= MAX_PIXELS and max(height, width) <= MAX_SIDE:
            return None
        sample = data['data_samples']
        scale = sample.metainfo.get('scale_factor', (1.0, 1.0))
        sample.set_metainfo(dict(ori_shape=sample.img_shape, scale_factor=(1.0, 1.0)))
        return tuple(scale)

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
