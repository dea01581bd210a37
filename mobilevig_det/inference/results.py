"""Results of inference on one image: detections, or the most probable classes.

A result is stored as a record in the folder ``rows/``: the local and distributed
executors write JSON lines, the Ray executor writes Parquet rows.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import cv2
import numpy as np
import pycocotools.mask as mask_utils

from ..errors import UserError
from ..io import atomic_write
from .images import InputImage
from .visualization import draw_detections
from .writers import coco_annotations

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

ResultT = TypeVar('ResultT', bound='Result')
# Larger images are downscaled to be drawn, and their masks stay at the model's input
# size: 100 masks of a gigapixel image do not fit into memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15


class Record(TypedDict):
    """Stored predictions of one image or video frame.

    A frame's record also has ``video``, the path of its video, and ``frame``, its
    number. A completed video has a record of its own with the number of ``frames``.

    Attributes:
        place: Position of the image among the inputs, from 0.
        image: Name of the image.
        width: Width in pixels; None if the image could not be decoded.
        height: Height in pixels; None if the image could not be decoded.
        boxes: N boxes [x, y, width, height] in pixels; empty for a classifier.
        labels: N category ids: of the detections, or of a classifier's best classes.
        scores: N scores, in descending order.
        masks: N masks in COCO's RLE, ``{'size': [height, width], 'counts': text}``;
            None if the model predicts no masks.
        error: Why the image could not be used; None if it was predicted.
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
    """Return a record without predictions.

    Args:
        place (int): Position of the input, from 0.
        image (str): Name of the input.
        error (str | None): Why the input could not be used; None for a completed
            video.
        width (int | None): Width in pixels, if it is known. Defaults to None.
        height (int | None): Height in pixels, if it is known. Defaults to None.
    """
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


@dataclass(repr=False, eq=False)
class Result:
    """Predictions for one image.

    Attributes:
        source (InputImage): The input image.
        classes (Sequence[str]): Names of all classes of the model, by label.
        height (int | None): Height in pixels; None if the image was not decoded.
        width (int | None): Width in pixels; None if the image was not decoded.
        scores (np.ndarray): float32 of shape (N,), in descending order.
        labels (np.ndarray): int64 of shape (N,), indices into ``classes``.
        error (str | None): Why the image could not be used; N is 0 in this case.
        pixels (np.ndarray | None): The image, uint8 (H, W, 3), BGR, if kept in memory.
        drawn (np.ndarray | None): The drawing of a video frame, uint8 (H, W, 3), BGR.
    """

    source: InputImage
    classes: Sequence[str]
    height: int | None = None
    width: int | None = None
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    error: str | None = None
    pixels: np.ndarray | None = None
    drawn: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The path of the image, or another name that identifies it."""
        return self.source.name

    @property
    def names(self) -> list[str]:
        """The class names of the N predictions."""
        return [self.classes[label] for label in self.labels]

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 of shape (H, W, 3), BGR, read from its file if necessary."""
        return self.source.read() if self.pixels is None else self.pixels

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self: ResultT, index: Any) -> ResultT:
        """Select predictions by an index, indices, a slice or a boolean mask."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return replace(self, **self._selected(chosen))

    def _selected(self, chosen: np.ndarray) -> dict[str, Any]:
        return dict(scores=self.scores[chosen], labels=self.labels[chosen])

    def filter(
        self: ResultT,
        score_thr: float = 0.0,
        classes: str | Sequence[str] | None = None,
    ) -> ResultT:
        """Return a result with the predictions of a minimum score and certain classes.

        Args:
            score_thr (float): Minimum score. Defaults to 0.
            classes (str | Sequence[str], optional): Names of the classes to keep.
                Defaults to None, which keeps all classes.

        Raises:
            UserError: If the model has no class with such a name.

        Example:
            >>> people = result.filter(score_thr=0.5, classes='person')
        """
        keep = self.scores >= score_thr
        if classes is not None:
            keep &= np.isin(self.labels, labels_of(classes, self.classes))
        return self[keep]

    def to_record(self, category_ids: Sequence[int] | None = None) -> Record:
        """Return the result as a :class:`Record`.

        Args:
            category_ids (Sequence[int], optional): Category id of each class, by
                label. Defaults to None, which numbers the classes from 1.
        """
        source = self.source
        record = empty_record(
            source.place, self.name, self.error, self.width, self.height
        )
        ids = category_ids or range(1, len(self.classes) + 1)
        record['labels'] = [ids[label] for label in self.labels]
        record['scores'] = self.scores.tolist()
        if source.video is not None:
            record.update(video=source.video, frame=source.frame)  # type: ignore[call-arg]
        return record

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self.error is not None:
            return f'{kind}({self.name!r}, error={self.error!r})'
        counts = ', '.join(f'{n} {name}' for name, n in Counter(self.names).items())
        size = f'{self.width}x{self.height}'
        return f'{kind}({self.name!r}, {size}, {len(self)} found: {counts or "none"})'


@dataclass(repr=False, eq=False)
class Detections(Result):
    """Detections in one image; see :class:`Result` for the other attributes.

    Attributes:
        boxes (np.ndarray): float32 of shape (N, 4): (x1, y1, x2, y2) in pixels of the
            original image.
        rles (list[dict] | None): N masks in COCO's RLE, or None if there are none.
        palette (Sequence | None): The colour (r, g, b) of each class, for drawing.

    Example:
        >>> result = Detector('coco-m')('photo.jpg')
        >>> result.filter(0.5, ['person']).save('people.jpg')
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    rles: list[dict] | None = None
    palette: Any = None

    @property
    def masks(self) -> np.ndarray | None:
        """The masks, decoded on access: bool (N, H, W); None if there are none."""
        if self.rles is None:
            return None
        if not self.rles:
            return np.zeros((0, self.height or 0, self.width or 0), bool)
        return mask_utils.decode(self.rles).astype(bool).transpose(2, 0, 1)

    def _selected(self, chosen: np.ndarray) -> dict[str, Any]:
        rles = None if self.rles is None else [self.rles[i] for i in chosen]
        return dict(super()._selected(chosen), boxes=self.boxes[chosen], rles=rles)

    def to_record(self, category_ids: Sequence[int] | None = None) -> Record:
        """Return the result as a :class:`Record`; see :meth:`Result.to_record`."""
        record = super().to_record(category_ids)
        corners = self.boxes.tolist()
        record['boxes'] = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners]
        record['masks'] = self.rles
        return record

    def to_coco(
        self, image_id: int = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict]:
        """Return the detections as COCO results.

        Args:
            image_id (int): The id of the image. Defaults to 1.
            category_ids (Sequence[int], optional): Category id of each class, by
                label. Defaults to None, which numbers the classes from 1.

        Returns:
            list[dict]: A COCO annotation for each detection, with a ``score`` and
            without an ``id``.
        """
        return list(coco_annotations(self.to_record(category_ids), image_id))

    def to_data_sample(self) -> 'DetDataSample':
        """Return a ``DetDataSample`` of MMDetection, in original image coordinates."""
        import torch
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        shape = (self.height, self.width)
        sample = DetDataSample(
            metainfo=dict(img_path=self.name, ori_shape=shape, img_shape=shape)
        )
        instances = InstanceData(
            bboxes=torch.from_numpy(self.boxes),
            scores=torch.from_numpy(self.scores),
            labels=torch.from_numpy(self.labels),
        )
        if self.rles is not None:
            instances.masks = torch.from_numpy(self.masks)
        sample.pred_instances = instances
        return sample

    def to_supervision(self) -> Any:
        """Return the detections as ``supervision.Detections``.

        Raises:
            UserError: If the package supervision can't be imported.
        """
        try:
            import supervision  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError(
                f'supervision cannot be imported ({error}): pip install supervision'
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data=dict(class_name=np.array(self.names)),
        )

    def draw(self, score_thr: float = 0.0) -> np.ndarray:
        """Draw boxes, masks, class names and scores into a copy of the image.

        Args:
            score_thr (float): Minimum score of the detections to draw. Defaults to 0.

        Returns:
            np.ndarray: uint8 of shape (H, W, 3), BGR. The copy is downscaled if the
            image exceeds ``MAX_PIXELS`` pixels or ``MAX_SIDE`` pixels per side.

        Raises:
            ImageFileError: If the image file can't be read again.
        """
        found = self.filter(score_thr)
        if self.pixels is None:
            with self.source.decoded() as pixels:
                return replace(found, pixels=pixels).draw()
        image = self.pixels
        height, width = image.shape[:2]
        factor = min(
            (MAX_PIXELS / (height * width)) ** 0.5, MAX_SIDE / max(height, width)
        )
        if factor < 1:
            size = max(1, int(width * factor)), max(1, int(height * factor))
            image = cv2.resize(image, size)
        size = image.shape[1], image.shape[0]
        return draw_detections(
            image,
            found.boxes * np.array([size[0] / width, size[1] / height] * 2),
            found.labels,
            found.scores,
            self.classes,
            None if found.rles is None else _MasksOnDemand(found.rles, size),
            self.palette,
        )

    def save(self, path: str | os.PathLike, score_thr: float = 0.0) -> None:
        """Draw the detections and write the drawing to an image file.

        Args:
            path (str | PathLike): The image file. Its suffix determines the format.
            score_thr (float): Minimum score of the detections to draw. Defaults to 0.

        Raises:
            ImageFileError: If the image file can't be read again.
            UserError: If OpenCV does not support the format.
        """
        save_image(path, self.draw(score_thr))


class _MasksOnDemand:
    """Sequence of masks that decodes and resizes each on access to save memory."""

    def __init__(self, rles: list[dict], size: tuple[int, int]) -> None:
        self.rles = rles
        self.size = size

    def __getitem__(self, index: int) -> np.ndarray:
        mask = mask_utils.decode(self.rles[index])
        return cv2.resize(mask, self.size, interpolation=cv2.INTER_NEAREST)


class Classification(Result):
    """The most probable classes of one image; see :class:`Result` for the attributes.

    Example:
        >>> result = Classifier('m')('photo.jpg')
        >>> result.names[0], result.scores[0]
    """


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image file atomically.

    Args:
        path (str | PathLike): The file. Its suffix determines the format.
        image (np.ndarray): uint8 of shape (H, W, 3), BGR.

    Raises:
        UserError: If OpenCV does not support the format.
    """
    suffix = os.path.splitext(path)[1]
    try:
        data = cv2.imencode(suffix, image)[1]
    except cv2.error as error:
        raise UserError(
            f'{path}: OpenCV cannot write images with the suffix {suffix!r}.'
        ) from error
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(data.tobytes())


def labels_of(names: str | Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the labels of classes.

    Args:
        names (str | Sequence[str]): One or several class names.
        classes (Sequence[str]): Names of all classes of the model, by label.

    Raises:
        UserError: If the model has no class with such a name.
    """
    names = [names] if isinstance(names, str) else names
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError(
            f'The model has no class {unknown[0]!r}; it has {", ".join(classes)}.'
        )
    return [i for i, name in enumerate(classes) if name in names]
