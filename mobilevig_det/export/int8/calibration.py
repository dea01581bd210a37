"""What activations are measured on: training images, prepared as in a test."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmdet.models import BaseDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ...datasets import leaf_datasets
from ...errors import UserError
from ..runtimes import load

NUMBER = 200  # of images


class CalibrationInputs:
    """Inputs of an exported detector, from the config's training images.

    They go through the test pipeline and the detector's ``data_preprocessor``.
    Can be iterated over again and again; one image at a time is in memory. Each
    is a dict: ``image`` (1, 3, H, W) and ``size`` (2,).

    Args:
        cfg (Config): The detector's.
        detector (BaseDetector): Which prepares the images.
        number (int): Of images, evenly spread over the training set.
    """

    def __init__(self, cfg: Config, detector: BaseDetector, number: int = NUMBER):
        self._preprocess = detector.data_preprocessor
        self._dataset = DATASETS.build(
            dict(
                next(leaf_datasets(cfg.train_dataloader.dataset)),
                pipeline=next(leaf_datasets(cfg.test_dataloader.dataset))['pipeline'],
                test_mode=True,
            )
        )
        number = min(number, len(self._dataset))
        spread = np.linspace(0, len(self._dataset) - 1, number)
        self._chosen: list[int] = spread.astype(int).tolist()

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for index in self._chosen:
            batch = pseudo_collate([self._dataset[index]])
            data = self._preprocess(batch, False)
            size = data['data_samples'][0].img_shape[:2]
            yield dict(image=data['inputs'].numpy(), size=np.array(size, np.int64))

    def keep_detected(self, path: str | Path) -> None:
        """Leave out images in which an exported detector finds nothing: its mask
        head sees no box there, so that there would be nothing to measure.

        Raises:
            UserError: If none is left.
        """
        session = load(path)
        number = len(self)
        found = [len(session(**arrays)['boxes']) > 0 for arrays in self]
        self._chosen = [i for i, any_box in zip(self._chosen, found) if any_box]
        if not self._chosen:
            raise UserError(
                f'--int8: the model detects nothing in {number} images of the '
                'training set, so that its activations cannot be measured: train '
                'it first.'
            )
        print(
            f'Activations are measured on {len(self)} training images: of {number}, '
            'those in which something is detected.'
        )
