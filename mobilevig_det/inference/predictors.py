"""Predictors: a model with its preprocessing, which turns images into results.

A detector of PyTorch, an exported one (ONNX Runtime, OpenVINO) and a classifier have
one interface: :meth:`Predictor.prepare` an image, and :meth:`Predictor.predict_batch`
prepared images that are padded to the same size.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from ..datasets import ImageFileError
from ..datasets.masks import encode_rle
from ..errors import UserError
from .images import MEMORY, InputImage, is_memory_error
from .results import MAX_PIXELS, MAX_SIDE, Classification, Detections, Result

# Images after which a batch is predicted that others of its size have not filled.
MAX_WAITING = 64
# By default a batch takes no more pixels than one image of COCO's recipe does; more
# than a few small images at once gain nothing.
BATCH_PIXELS = 800 * 1344
MAX_BATCH = 8


class Prepared(NamedTuple):
    """An image that is ready for the model.

    Attributes:
        source (InputImage): The image's name and where it is from.
        pixels (np.ndarray | None): The decoded image, uint8 (H, W, 3), BGR; None of a
            very large one, which is decoded again to draw it.
        size (tuple[int, ...]): Its height and width.
        data (dict): What the test pipeline returned.
        scale (tuple[float, float]): (x, y) factors from the image to the coordinates
            of the model's boxes and masks: 1 except for very large images.
        padded_size (tuple[int, ...]): The size that it will be padded to, divided by
            the model's divisor.
    """

    source: InputImage
    pixels: np.ndarray | None
    size: tuple[int, ...]
    data: dict
    scale: tuple[float, float]
    padded_size: tuple[int, ...]


class SizeBucketer:
    """Collect images into batches of one padded size.

    The graph steps of the backbones wrap around the padded map, so that padding an
    image further would change its features. Images of one size stay in order, and none
    waits for more than ``MAX_WAITING`` others.

    Args:
        batch_size (int | None): Of a full batch. None: as many images as have
            ``BATCH_PIXELS`` pixels, at least one and at most ``MAX_BATCH``.
    """

    def __init__(self, batch_size: int | None) -> None:
        self.batch_size = batch_size
        self._waiting: dict[tuple, list[Prepared]] = {}  # the longest waiting first
        self._since: dict[tuple, int] = {}
        self._count = 0

    def add(self, prepared: Prepared) -> Iterator[list[Prepared]]:
        """Add an image, and yield the batches that are due."""
        size = prepared.padded_size
        batch = self._waiting.setdefault(size, [])
        self._since.setdefault(size, self._count)
        batch.append(prepared)
        self._count += 1
        if len(batch) >= self._full(prepared):
            yield self._pop(size)
        if self._waiting:
            oldest = next(iter(self._waiting))
            if self._count - self._since[oldest] >= MAX_WAITING:
                yield self._pop(oldest)

    def rest(self) -> Iterator[list[Prepared]]:
        """Yield the batches that are not full; none waits any more."""
        for size in list(self._waiting):
            yield self._pop(size)

    def _pop(self, size: tuple) -> list[Prepared]:
        del self._since[size]
        return self._waiting.pop(size)

    def _full(self, prepared: Prepared) -> int:
        if self.batch_size is not None:
            return self.batch_size
        # The image as it was decoded counts too: it is kept until it is predicted.
        height, width = prepared.data['inputs'].shape[-2:]
        pixels = max(height * width, int(np.prod(prepared.size)))
        return min(MAX_BATCH, max(1, BATCH_PIXELS // pixels))


class Predictor:
    """A model and its preprocessing.

    Several threads may share it: the model runs in one at a time, except for copies
    that :mod:`.pipeline` makes for its threads.

    Args:
        model (BaseModel): MMEngine's, in evaluation mode.
        pipeline (Callable): The test pipeline; takes ``dict(img=array)``.
        classes (Sequence[str]): Names of the classes, by label.
        score_thr (float): Predictions that score less are left out. Defaults to 0.
        labels (Sequence[int], optional): The labels to keep. Defaults to None: all.
        can_copy (bool): Whether copies of the model may run at once. Defaults to True.
    """

    is_classifier = False

    def __init__(
        self,
        model: BaseModel,
        pipeline: Callable[[dict], dict],
        classes: Sequence[str],
        score_thr: float = 0.0,
        labels: Sequence[int] | None = None,
        can_copy: bool = True,
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self.classes = tuple(classes)
        self.score_thr = score_thr
        self.labels = labels
        self.can_copy = can_copy
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def device(self) -> str:
        """The type of the model's device: 'cpu' for an exported detector."""
        return next((p.device.type for p in self.model.parameters()), 'cpu')

    def prepare(self, source: InputImage) -> Prepared | Result:
        """Decode and preprocess an image; a result with an ``error`` if it can't be
        used."""
        for alone in (False, True):
            try:
                return self._prepare(source, alone)
            except ImageFileError as error:
                return self._failed(source, str(error))
            except Exception as error:
                if not is_memory_error(error):
                    raise
                reason = _first_line(error)
        return self._failed(source, f'it needs more memory than there is ({reason})')

    def _prepare(self, source: InputImage, alone: bool) -> Prepared | Result:
        pixels = None
        try:
            with source.decoded(alone) as pixels:
                data = self.pipeline(dict(img=pixels))
                scale = self._shrink(pixels, data)
                size = pixels.shape[:2]
        except (UserError, ImageFileError):
            raise
        except Exception as error:
            if is_memory_error(error):
                raise
            # It depends on the image: one of 20,000 x 1 pixels can't be scaled down.
            reason = _first_line(getattr(error, 'err', None) or error)
            if pixels is None:
                return self._failed(source, f'cannot be decoded ({reason})')
            reason = (
                f'the test pipeline cannot prepare its {pixels.shape[1]} x '
                f'{pixels.shape[0]} pixels ({reason})'
            )
            return self._failed(source, reason, pixels.shape[:2])
        divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1)
        padded = tuple(-(-side // divisor) for side in data['inputs'].shape)
        # Those that wait would fill the memory.
        kept = None if size[0] * size[1] > MAX_PIXELS else pixels
        return Prepared(source, kept, size, data, scale, padded)

    def predict_batch(
        self, batch: list[Prepared], models: queue.SimpleQueue | None = None
    ) -> list[Result]:
        """Predict images that are padded to the same size.

        Args:
            batch (list[Prepared]): Images of one ``padded_size``.
            models (SimpleQueue, optional): Copies of the model, one of which is
                borrowed; None in it is the predictor's own. Defaults to None, which
                waits for the predictor's own.

        Raises:
            UserError: In a process that was forked after the model was built.
        """
        if os.getpid() != self._process:
            raise UserError(
                f'This model was built in process {self._process} and cannot be used '
                f'in process {os.getpid()}, which was forked from it: build it in the '
                "new process, or start that with the method 'spawn'."
            )
        for alone in (False, True) if len(batch) == 1 else (False,):
            try:
                with (
                    MEMORY.lend(MEMORY.limit if alone else 1),
                    torch.no_grad(),
                    self._borrowed(models) as model,
                ):
                    samples = self._forward(batch, model)
                return [
                    self._result(one, sample) for one, sample in zip(batch, samples)
                ]
            except Exception as error:
                if not is_memory_error(error):
                    raise
                reason = _first_line(error)
        if len(batch) > 1:
            singles = [self.predict_batch([one], models) for one in batch]
            return [result for (result,) in singles]
        (one,) = batch
        reason = f'the model needs more memory than there is ({reason})'
        return [self._failed(one.source, reason, one.size)]

    @contextlib.contextmanager
    def _borrowed(self, models: queue.SimpleQueue | None) -> Iterator[BaseModel]:
        model = None if models is None else models.get()
        try:
            if model is None:
                with self._lock:
                    yield self.model
            else:
                yield model
        finally:
            if models is not None:
                models.put(model)

    def _forward(
        self, batch: list[Prepared], model: BaseModel
    ) -> list[BaseDataElement]:
        data = pseudo_collate([prepared.data for prepared in batch])
        return [sample.cpu() for sample in model.test_step(data)]

    def _shrink(self, pixels: np.ndarray, data: dict) -> tuple[float, float]:
        """Have a very large image's masks at the model's scale; return that scale."""
        return 1.0, 1.0

    def _result(self, prepared: Prepared, sample: Any) -> Result:
        raise NotImplementedError

    def _failed(
        self, source: InputImage, reason: str, size: Sequence[int | None] = (None, None)
    ) -> Result:
        return self._kind(source, self.classes, size[0], size[1], error=reason)

    _kind: type[Result] = Result


class DetectionPredictor(Predictor):
    """A detector of PyTorch or, behind the same interface, an exported one.

    Args:
        palette (Sequence | None): (r, g, b) of each class. Defaults to None.

    For others see :class:`Predictor`.
    """

    _kind = Detections

    def __init__(self, *args, palette: Any = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.palette = palette

    def _shrink(self, pixels: np.ndarray, data: dict) -> tuple[float, float]:
        height, width = pixels.shape[:2]
        if height * width <= MAX_PIXELS and max(height, width) <= MAX_SIDE:
            return 1.0, 1.0
        sample = data['data_samples']
        scale = sample.metainfo.get('scale_factor', (1.0, 1.0))
        sample.set_metainfo(dict(ori_shape=sample.img_shape, scale_factor=(1.0, 1.0)))
        return scale

    def _result(self, prepared: Prepared, sample: Any) -> Detections:
        height, width = prepared.size
        found = sample.pred_instances
        keep = found.scores >= self.score_thr
        if self.labels is not None:
            keep &= torch.isin(found.labels, torch.tensor(self.labels))
        found = found[keep]
        found = found[found.scores.argsort(descending=True, stable=True)]
        rles = None
        if 'masks' in found:
            rles = encode_rle(found.masks.numpy(), (height, width))
        if 'bboxes' in found:
            boxes = found.bboxes.numpy() / np.array(prepared.scale * 2)
        else:  # of a detector that predicts masks only
            boxes = np.array([mask_utils.toBbox(rle) for rle in rles or ()])
            boxes = boxes.reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
        return Detections(
            prepared.source,
            self.classes,
            height,
            width,
            found.scores.numpy().astype(np.float32),
            found.labels.numpy().astype(np.int64),
            pixels=prepared.pixels,
            boxes=boxes.astype(np.float32),
            rles=rles,
            palette=self.palette,
        )


class ClassificationPredictor(Predictor):
    """A classifier; its results are the best classes, the best one first.

    Args:
        topk (int): How many classes. Defaults to 5.

    For others see :class:`Predictor`.
    """

    is_classifier = True
    _kind = Classification

    def __init__(self, *args, topk: int = 5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.topk = topk

    def _shrink(self, pixels: np.ndarray, data: dict) -> tuple[float, float]:
        # Nothing pads images, as detectors' are, unless the config does.
        least = getattr(self.model.backbone, 'min_size', 1)
        if min(data['inputs'].shape[-2:]) < least:
            raise ValueError(f'the model needs at least {least} x {least}')
        return 1.0, 1.0

    def _result(self, prepared: Prepared, sample: Any) -> Classification:
        height, width = prepared.size
        scores = sample.pred_score.float().numpy()
        labels = (
            np.arange(len(scores)) if self.labels is None else np.array(self.labels)
        )
        labels = labels[np.argsort(-scores[labels], kind='stable')][: self.topk]
        labels = labels[scores[labels] >= self.score_thr]
        return Classification(
            prepared.source,
            self.classes,
            height,
            width,
            scores[labels],
            labels.astype(np.int64),
            pixels=prepared.pixels,
        )


def _first_line(error: object) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
