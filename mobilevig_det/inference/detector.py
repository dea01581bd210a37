"""Python API for inference: ``Detector('coco-m')('photo.jpg')``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar

import torch

from ..config import load_config
from ..datasets import ImageFileError
from ..errors import UserError
from .images import InputImage, as_image
from .models import find_by_name, find_model, load_predictor
from .pipeline import Pipeline
from .predictors import ClassificationPredictor, DetectionPredictor, Predictor, Prepared
from .results import Classification, Detections, Result
from .sources import iterate

ResultT = TypeVar('ResultT', bound=Result)


class _Model(Generic[ResultT]):
    """A loaded model that predicts images; see :class:`Detector`."""

    _predictor_type: type[Predictor]
    _other = ''

    def __init__(
        self,
        model: str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | None = None,
        score_thr: float = 0.3,
        classes: str | Sequence[str] | None = None,
        fuse: bool = True,
    ) -> None:
        model = os.fspath(model)
        if checkpoint is None:
            config, weights = find_by_name(model)
        else:
            config, weights = find_model(model, os.fspath(checkpoint))
        cfg = None if config is None else load_config(config)
        self.predictor = load_predictor(cfg, weights, device, score_thr, classes, fuse)
        if not isinstance(self.predictor, self._predictor_type):
            raise UserError(f'{model} is a {self._other}: use {self._other.title()}.')

    @property
    def model(self) -> torch.nn.Module:
        """The PyTorch module, in evaluation mode."""
        return self.predictor.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.predictor.classes

    def __call__(self, images: Any) -> Any:
        """Predict one image or a list of them.

        Args:
            images: A path, an array (uint8 of shape (H, W, 3), BGR as in OpenCV), a
                PIL image, or a list or tuple of them.

        Returns:
            Result | list[Result]: One result for a single image, or a list with one
            result for each image.

        Raises:
            ImageFileError: If an image can't be read, decoded or preprocessed.
            UserError: If ``images`` has an unsupported type, dtype or shape.
        """
        if isinstance(images, list | tuple):
            listed = [as_image(image, i) for i, image in enumerate(images)]
            return [_checked(result) for result in self.stream(listed)]
        return _checked(self._predict(as_image(images)))

    def _predict(self, image: InputImage) -> ResultT:
        prepared = self.predictor.prepare(image)
        if isinstance(prepared, Prepared):
            (prepared,) = self.predictor.predict_batch([prepared])
        return prepared  # type: ignore[return-value]

    def stream(self, source: Any, batch_size: int | None = None) -> Iterator[ResultT]:
        """Yield the results of many images in input order, in bounded memory.

        Images are decoded and predicted in threads, a few images ahead of the
        consumer. An image that can't be used yields a result with an ``error``.

        Args:
            source: The path of an image, a folder, a list of paths (``.txt``), a tar
                shard, a video, or a pattern such as ``'photos/**/*.jpg'``; or an
                iterable of paths, arrays and PIL images, for example a generator.
            batch_size (int, optional): Maximum number of images in a batch. Only
                images that are padded to the same size share a batch, so results
                change by rounding only. Defaults to None, which fills a batch up to
                the number of pixels of one 800x1344 image, with at most 8 images.

        Yields:
            Result: The result of each image or video frame.

        Raises:
            UserError: If a path contains no images, or ``source`` or one of its items
                has an unsupported type.

        Example:
            >>> for result in Detector('coco-m').stream('photos/', batch_size=8):
            ...     print(result)
        """
        with Pipeline(self.predictor, batch_size) as pipeline:
            with closing(pipeline.run(iterate(source), ordered=True)) as results:
                yield from results  # type: ignore[misc]


class Detector(_Model[Detections]):
    """Object detector or instance segmentation model, loaded for inference.

    A detector is thread-safe. It can't be used in a process that was forked from the
    one that built it: a call there raises a UserError.

    Args:
        model (str | PathLike): The name of published weights ('coco-m'), a work
            directory, a checkpoint in the same folder as its config, or an exported
            detector (.onnx, .xml). With ``checkpoint``, the path or name of a config.
        checkpoint (str | PathLike, optional): The path or URL of a checkpoint, or the
            name of published weights ('mobilevig://coco-m'). Defaults to None.
        device (str, optional): The device, for example 'cuda:1' or 'cpu'. Defaults to
            None, which uses a GPU if one is available. Exported detectors run on the
            CPU.
        score_thr (float): Minimum score of a detection. Defaults to 0.3.
        classes (str | Sequence[str], optional): Names of the classes to detect.
            Defaults to None, which keeps all classes.
        fuse (bool): Whether to fuse the backbone's branches and BatchNorms, which
            changes results by rounding only. Defaults to True.

    Raises:
        UserError: If the model is not found, can't be loaded, or is a classifier.

    Example:
        >>> detector = Detector('coco-m')
        >>> result = detector('photo.jpg')
        >>> result.boxes, result.scores, result.names, result.masks
        >>> result.save('out.jpg')
    """

    _predictor_type = DetectionPredictor
    _other = 'classifier'


class Classifier(_Model[Classification]):
    """Image classifier, loaded for inference.

    Its results are the five best classes. The arguments are those of
    :class:`Detector`, except that ``score_thr`` defaults to 0.

    Example:
        >>> result = Classifier('m')('photo.jpg')
        >>> result.names[0], result.scores[0]
    """

    _predictor_type = ClassificationPredictor
    _other = 'detector'

    def __init__(
        self,
        model: str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | None = None,
        score_thr: float = 0.0,
        classes: str | Sequence[str] | None = None,
        fuse: bool = True,
    ) -> None:
        super().__init__(model, checkpoint, device, score_thr, classes, fuse)


def _checked(result: Any) -> Any:
    if result.error is not None:
        raise ImageFileError(f'{result.name}: {result.error}')
    return result
