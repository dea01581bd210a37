"""Confidence intervals of figures that are measured on a subset of the images."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import binomtest

Interval = tuple[float, float]
NORMAL = 1.959964  # two-sided 95 %
REPLICATES = 200


def wilson(right: int, total: int) -> Interval:
    """Compute Wilson's 95 % interval of a proportion, in percent.

    Args:
        right (int): Number of correct predictions.
        total (int): Number of predictions, at least one.

    Returns:
        tuple[float, float]: Lower and upper end in percent.
    """
    interval = binomtest(right, total).proportion_ci(method='wilson')
    return 100 * interval.low, 100 * interval.high


class CocoAP:
    """COCO's AP of a set of images, and its 95 % interval.

    Args:
        truth (COCO): The ground truth.
        detections (list[dict]): Detections in COCO's results format.
        kind (str): 'bbox' or 'segm'.
        image_ids (Sequence[int]): The evaluated images.
        category_ids (Sequence[int]): The evaluated classes.
    """

    def __init__(
        self,
        truth: COCO,
        detections: list[dict],
        kind: str,
        image_ids: Sequence[int],
        category_ids: Sequence[int],
    ) -> None:
        self.evaluation = None
        if not detections:
            return  # AP 0
        if kind == 'segm':  # with boxes, loadRes() would take their areas
            detections = [
                {k: v for k, v in each.items() if k != 'bbox'} for each in detections
            ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(detections), kind)
            params = evaluation.params
            params.imgIds, params.catIds = sorted(image_ids), list(category_ids)
            # Only the settings that the AP uses.
            params.areaRng, params.areaRngLbl = [[0, 1e10]], ['all']
            params.maxDets = [100]
            evaluation.evaluate()
        self.evaluation = evaluation
        # Matches by class and image.
        self.matches = np.empty((len(params.catIds), len(params.imgIds)), object)
        self.matches.ravel()[:] = evaluation.evalImgs

    def value(self, images: np.ndarray | None = None) -> float:
        """Compute the AP in percent; it is 0 without detections.

        Args:
            images (np.ndarray, optional): Indices of a bootstrap resample: as many as
                there are images, with repetitions. Defaults to None: each once.
        """
        if self.evaluation is None:
            return 0.0
        matches = self.matches if images is None else self.matches[:, images]
        self.evaluation.evalImgs = matches.ravel().tolist()
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluation.accumulate()
        precision = self.evaluation.eval['precision']
        known = precision[precision > -1]
        return 100 * float(known.mean()) if known.size else 0.0

    def interval(self, replicates: int = REPLICATES) -> Interval:
        """Compute the 95 % interval by the bootstrap over images, corrected for bias.

        The AP of fewer images is too high on average, and that of a resample, which has
        fewer distinct ones, by about as much again. Source: A. C. Davison, D. V.
        Hinkley, Bootstrap Methods and their Application, 1997, section 5.2.1.

        Args:
            replicates (int): Number of resamples. Defaults to 200.

        Returns:
            tuple[float, float]: Lower and upper end in percent.
        """
        if self.evaluation is None:
            return 0.0, 100.0  # without detections the spread is unknown
        random = np.random.default_rng(0)
        number = self.matches.shape[1]
        values = [
            self.value(random.integers(0, number, number)) for _ in range(replicates)
        ]
        middle = 2 * self.value() - float(np.mean(values))
        half = NORMAL * float(np.std(values, ddof=1))
        return max(middle - half, 0.0), min(middle + half, 100.0)
