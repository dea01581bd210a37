"""Predictors: models with their preprocessing, which turn images into results.

PyTorch detectors, exported detectors (ONNX Runtime, OpenVINO) and classifiers share one
interface: :meth:`Predictor.prepare` preprocesses an image, and
:meth:`Predictor.predict_batch` predicts images that are padded to the same size.
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

# An incomplete batch is predicted after this many further images of other sizes.
MAX_WAITING = 64
# Default limits of a batch: the pixels of one image of the COCO recipe, because larger
# batches of small images are not faster.
BATCH_PIXELS = 800 * 1344
MAX_BATCH = 8


class Prepared(NamedTuple):
    """A preprocessed image.

    Attributes:
        source (InputImage): The input image.
        pixels (np.ndarray | None): The decoded image, uint8 of shape (H, W, 3), BGR.
            None for a very large image, which is decoded again if it is drawn.
        size (tuple[int, ...]): Height and width of the image in pixels.
        data (dict): The output of the test pipeline.
        scale (tuple[float, float]): (x, y) factors from image coordinates to those of
            the model's boxes and masks: 1 except for very large images.
        padded_size (tuple[int, ...]): Shape of the input tensor (C, H, W) after
            padding, in multiples of the model's ``pad_size_divisor``.
    """

    source: InputImage
    pixels: np.ndarray | None
    size: tuple[int, ...]
    data: dict
    scale: tuple[float, float]
    padded_size: tuple[int, ...]


class SizeBucketer:
    """Collect images into batches in which all images have the same padded size.

    The graph steps of the backbones wrap around the padded feature map, so more padding
    would change an image's features. Images of the same size keep their order, and no
    image waits for more than ``MAX_WAITING`` others.

    Args:
        batch_size (int | None): The number of images in a full batch. None limits a
            batch to ``BATCH_PIXELS`` pixels and ``MAX_BATCH`` images, but to at least
            one image.
    """

    def __init__(self, batch_size: int | None) -> None:
        self.batch_size = batch_size
        self._waiting: dict[tuple, list[Prepared]] = {}  # oldest batch first
        self._since: dict[tuple, int] = {}
        self._count = 0

    def add(self, prepared: Prepared) -> Iterator[list[Prepared]]:
        """Add an image.

        Args:
            prepared (Prepared): The image.

        Yields:
            list[Prepared]: Each batch that is full or has waited too long.
        """
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
        """Yield the remaining, incomplete batches and clear the bucketer."""
        for size in list(self._waiting):
            yield self._pop(size)

    def _pop(self, size: tuple) -> list[Prepared]:
        del self._since[size]
        return self._waiting.pop(size)

    def _full(self, prepared: Prepared) -> int:
        if self.batch_size is not None:
            return self.batch_size
        # The decoded image counts as well, because it is kept until the prediction.
        height, width = prepared.data['inputs'].shape[-2:]
        pixels = max(height * width, int(np.prod(prepared.size)))
        return min(MAX_BATCH, max(1, BATCH_PIXELS // pixels))


class Predictor:
    """A model with its preprocessing.

    A predictor is thread-safe: the model runs in one thread at a time, except for the
    copies that :mod:`.pipeline` makes for its threads.

    Args:
        model (BaseModel): The MMEngine model, in evaluation mode.
        pipeline (Callable): The test pipeline, which takes ``dict(img=array)``.
        classes (Sequence[str]): Names of the classes, by label.
        score_thr (float): Minimum score of a prediction. Defaults to 0.
        labels (Sequence[int], optional): The labels to keep. Defaults to None, which
            keeps all labels.
        can_copy (bool): Whether copies of the model may run in parallel. Defaults to
            True.
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
        """Decode and preprocess an image.

        Args:
            source (InputImage): The image.

        Returns:
            Prepared | Result: The preprocessed image, or a result with an ``error`` if
            it can't be used.
        """
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
            # Some images can't be resized, for example one of 20,000 x 1 pixels.
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
        # Large images that wait for their batch would fill the memory.
        kept = None if size[0] * size[1] > MAX_PIXELS else pixels
        return Prepared(source, kept, size, data, scale, padded)

    def predict_batch(
        self, batch: list[Prepared], models: queue.SimpleQueue | None = None
    ) -> list[Result]:
        """Predict images that are padded to the same size.

        Args:
            batch (list[Prepared]): Images with the same ``padded_size``.
            models (SimpleQueue, optional): Copies of the model, one of which is used
                and put back. An item None stands for the predictor's own model.
                Defaults to None, which uses the predictor's own model.

        Returns:
            list[Result]: The result of each image. A single image that needs too much
            memory gets a result with an ``error``.

        Raises:
            UserError: If this process was forked after the model was built.
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
        """Keep predictions of a very large image at the model's scale; return it."""
        return 1.0, 1.0

    def _result(self, prepared: Prepared, sample: Any) -> Result:
        raise NotImplementedError

    def _failed(
        self, source: InputImage, reason: str, size: Sequence[int | None] = (None, None)
    ) -> Result:
        return self._kind(source, self.classes, size[0], size[1], error=reason)

    _kind: type[Result] = Result


class DetectionPredictor(Predictor):
    """Predictor for PyTorch detectors and exported detectors.

    The other arguments are those of :class:`Predictor`.

    Args:
        palette (Sequence | None): The colour (r, g, b) of each class. Defaults to
            None, which chooses the colours automatically.
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
        else:  # The detector predicts masks only.
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
    """Predictor for classifiers, which returns the classes of the highest scores.

    The other arguments are those of :class:`Predictor`.

    Args:
        topk (int): Maximum number of classes in a result. Defaults to 5.
    """

    is_classifier = True
    _kind = Classification

    def __init__(self, *args, topk: int = 5, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.topk = topk

    def _shrink(self, pixels: np.ndarray, data: dict) -> tuple[float, float]:
        # Images are not padded, unlike those of detectors, unless the config says so.
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
