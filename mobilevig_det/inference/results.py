"""Results of inference in one image: detections, or the best classes.

A result is stored as a record: a line of JSON in the ``rows/`` of the local and
torchrun executors, and a row of Parquet in those of the Ray executor.
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
# Larger images are drawn smaller, and masks are predicted in coordinates of the model's
# input: a hundred masks of a gigapixel don't fit into a memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15


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


@dataclass(repr=False, eq=False)
class Result:
    """What a model predicts in one image.

    Attributes:
        source (InputImage): The image's name and where to read it.
        classes (Sequence[str]): Names of all classes of the model, by label.
        height (int | None): Of the image in pixels; None if it could not be decoded.
        width (int | None): Likewise.
        scores (np.ndarray): float32 of shape (N,), descending.
        labels (np.ndarray): int64 of shape (N,), indices into ``classes``.
        error (str | None): Why the image could not be used. Then N is 0.
        pixels (np.ndarray | None): The decoded image, if it can't be read again.
        drawn (np.ndarray | None): A frame of a video, drawn by the pipeline.
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
        """The path of the image, or the name that its source gave it."""
        return self.source.name

    @property
    def names(self) -> list[str]:
        """The class names of the N predictions."""
        return [self.classes[label] for label in self.labels]

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 of shape (H, W, 3), BGR. Files are read again."""
        return self.source.read() if self.pixels is None else self.pixels

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self: ResultT, index: Any) -> ResultT:
        """Select predictions by a slice, a boolean mask, indices or one index."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return replace(self, **self._selected(chosen))

    def _selected(self, chosen: np.ndarray) -> dict[str, Any]:
        return dict(scores=self.scores[chosen], labels=self.labels[chosen])

    def filter(
        self: ResultT,
        score_thr: float = 0.0,
        classes: str | Sequence[str] | None = None,
    ) -> ResultT:
        """Keep predictions of a score of at least ``score_thr``, and of some classes.

        Args:
            score_thr (float): The lowest score to keep. Defaults to 0.
            classes (str | Sequence[str], optional): Names of the classes to keep.
                Defaults to None, which keeps all.

        Raises:
            UserError: If the model has no class of such a name.
        """
        keep = self.scores >= score_thr
        if classes is not None:
            keep &= np.isin(self.labels, labels_of(classes, self.classes))
        return self[keep]

    def to_record(self, category_ids: Sequence[int] | None = None) -> Record:
        """Return the record of :mod:`.records`.

        Args:
            category_ids (Sequence[int], optional): Ids by label. Defaults to None:
                1, 2, 3, ….
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
    """Objects that a detector found in one image.

    Attributes:
        boxes (np.ndarray): float32 of shape (N, 4), (x1, y1, x2, y2) in pixels of the
            original image.
        rles (list[dict] | None): N masks as COCO's RLE, or None if the model predicts
            no masks.
        palette (Sequence | None): (r, g, b) of each class, for drawing.

    Example:
        >>> result = Detector('coco-m')('photo.jpg')
        >>> result.filter(0.5, ['person']).save('people.jpg')
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    rles: list[dict] | None = None
    palette: Any = None

    @property
    def masks(self) -> np.ndarray | None:
        """Masks, bool of shape (N, H, W), decoded now; None without a mask head."""
        if self.rles is None:
            return None
        if not self.rles:
            return np.zeros((0, self.height or 0, self.width or 0), bool)
        return mask_utils.decode(self.rles).astype(bool).transpose(2, 0, 1)

    def _selected(self, chosen: np.ndarray) -> dict[str, Any]:
        rles = None if self.rles is None else [self.rles[i] for i in chosen]
        return dict(super()._selected(chosen), boxes=self.boxes[chosen], rles=rles)

    def to_record(self, category_ids: Sequence[int] | None = None) -> Record:
        record = super().to_record(category_ids)
        corners = self.boxes.tolist()
        record['boxes'] = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners]
        record['masks'] = self.rles
        return record

    def to_coco(
        self, image_id: int = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict]:
        """Return COCO annotations with a ``score``, without ids of their own.

        Args:
            image_id (int): The image's id. Defaults to 1.
            category_ids (Sequence[int], optional): Ids by label. Defaults to None:
                1, 2, 3, ….
        """
        return list(coco_annotations(self.to_record(category_ids), image_id))

    def to_data_sample(self) -> 'DetDataSample':
        """Return MMDetection's data sample in coordinates of the original image."""
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
        """Return ``supervision.Detections`` (``pip install supervision``)."""
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
        """Return a copy of the image with boxes, masks, names and scores drawn.

        Args:
            score_thr (float): Draw what scores at least so much. Defaults to 0.

        Returns:
            np.ndarray: uint8 (H, W, 3), BGR; smaller than the image if that has more
            than ``MAX_PIXELS`` pixels.
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
        """Write the image with boxes, masks and names drawn.

        Args:
            path (str | PathLike): An image file; the suffix chooses the format.
            score_thr (float): Draw what scores at least so much. Defaults to 0.

        Raises:
            UserError: If OpenCV cannot write such a format.
        """
        save_image(path, self.draw(score_thr))


class _MasksOnDemand:
    """Masks that are decoded and resized one at a time, because all can be large."""

    def __init__(self, rles: list[dict], size: tuple[int, int]) -> None:
        self.rles = rles
        self.size = size

    def __getitem__(self, index: int) -> np.ndarray:
        mask = mask_utils.decode(self.rles[index])
        return cv2.resize(mask, self.size, interpolation=cv2.INTER_NEAREST)


class Classification(Result):
    """The best classes of one image; ``result.names[0]`` is the best one."""


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image file atomically; its suffix chooses the format.

    Raises:
        UserError: If OpenCV cannot write such a format.
    """
    suffix = os.path.splitext(path)[1]
    try:
        data = cv2.imencode(suffix, image)[1]
    except cv2.error as error:
        raise UserError(
            f'{path}: OpenCV writes no {suffix or "such"} files.'
        ) from error
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(data.tobytes())


def labels_of(names: str | Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the labels of classes by name.

    Raises:
        UserError: If there is no class of such a name.
    """
    names = [names] if isinstance(names, str) else names
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError(
            f'The model has no class {unknown[0]!r}; it has {", ".join(classes)}.'
        )
    return [i for i, name in enumerate(classes) if name in names]
