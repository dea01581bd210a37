"""MMDetection's own detections, also with thresholds moved by rounding."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from torch import Tensor

from .examples import Example

# How far from a threshold a score or an IoU may be to fall on either side of it.
BORDERLINE = 1e-3
# Noise like a runtime's rounding, relative to the largest logit, and how often it is
# tried.
ROUNDING = 1e-6
NOISE_SEEDS = 4


class Detections(NamedTuple):
    """Outputs of a detector's file; see docs/export.md, "The file"."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


class Reference:
    """MMDetection's own predictions for an image, without rescaling.

    Args:
        detector (BaseDetector): The detector, fused and in eval mode.
        example (Example): The image.
    """

    def __init__(self, detector: BaseDetector, example: Example):
        self._detector = detector
        height, width = example.size
        self._meta = dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
        self._two_stage = hasattr(detector, 'roi_head')
        # The head whose thresholds can't be seen in the final detections.
        self._head = detector.rpn_head if self._two_stage else detector.bbox_head
        with torch.no_grad():
            self._maps = detector.extract_feat(example.image)
            self._outs = self._head(self._maps)

    def detections(self, with_masks: bool = True) -> Detections:
        """Return what the model detects."""
        return self._detect(self._head.test_cfg, with_masks)

    def perturbed_detections(self) -> Iterator[Detections]:
        """Yield what the model detects, without masks, if rounding decided otherwise.

        The first head's thresholds are moved by BORDERLINE and less: the further they
        move, the more detections change with them.
        """
        cfg = self._head.test_cfg
        for change in (BORDERLINE / 10**i for i in range(4)):
            for sign in (-1, 1):
                yield self._detect_with(iou_threshold=sign * change)
        # Of nearly equal scores, which are many near 1, either may come first.
        exact = self._outs
        for seed in range(NOISE_SEEDS):
            self._outs = (_add_noise(exact[0], seed), *exact[1:])
            yield self._detect(cfg, False)
        self._outs = exact
        if cfg.get('nms_pre', -1) > 0:
            levels = [score.sigmoid().flatten() for score in self._outs[0]]
            cuts = [_numbers_above_cut(x, cfg.nms_pre) for x in levels]
            for number in (min(low for low, _ in cuts), max(high for _, high in cuts)):
                yield self._detect_with(nms_pre=number)
        if self._two_stage:
            unlimited = copy.deepcopy(cfg)
            unlimited.max_per_img = 10**9
            scores = self._first_stage(unlimited).scores
            for number in _numbers_above_cut(scores, cfg.max_per_img):
                yield self._detect_with(max_per_img=number)

    def _detect_with(self, iou_threshold: float = 0, **numbers: int) -> Detections:
        """Detect with changes of the first head's ``test_cfg``."""
        cfg = copy.deepcopy(self._head.test_cfg)
        cfg.nms.iou_threshold += iou_threshold
        cfg.update({name: max(number, 1) for name, number in numbers.items()})
        return self._detect(cfg, with_masks=False)

    def _first_stage(self, cfg: ConfigDict):
        (found,) = self._head.predict_by_feat(
            *self._outs, batch_img_metas=[self._meta], cfg=cfg, rescale=False
        )
        return found

    @torch.no_grad()
    def _detect(self, cfg: ConfigDict, with_masks: bool) -> Detections:
        found = self._first_stage(cfg)
        masks = None
        if self._two_stage:
            roi_head = self._detector.roi_head
            (found,) = roi_head.predict_bbox(
                self._maps, [self._meta], [found], roi_head.test_cfg, rescale=False
            )
            if with_masks and roi_head.with_mask:
                masks = self._box_masks(found)
        elif with_masks and 'kernels' in found:
            head, mask_feat = self._head, self._outs[-1]
            masks = head._mask_predict_by_feat_single(
                mask_feat[0], found.kernels, found.priors
            ).sigmoid()
        return Detections(
            found.bboxes.numpy(),
            found.labels.numpy(),
            found.scores.numpy(),
            None if masks is None else masks.numpy(),
        )

    def _box_masks(self, found) -> Tensor:
        """Return masks within their boxes, not pasted."""
        roi_head = self._detector.roi_head
        if not len(found):
            height, width = roi_head.mask_roi_extractor.roi_layers[0].output_size
            return torch.zeros(0, height, width)
        results = roi_head._mask_forward(self._maps, bbox2roi([found.bboxes]))
        preds = results['mask_preds'].sigmoid()
        if roi_head.mask_head.class_agnostic:
            return preds[:, 0]
        return preds[range(len(preds)), found.labels]


def _add_noise(scores: list[Tensor], seed: int) -> list[Tensor]:
    """Add noise to logits, as large as the rounding of another runtime."""
    generator = torch.Generator().manual_seed(seed)
    return [
        score
        + ROUNDING * score.abs().max() * torch.randn(score.shape, generator=generator)
        for score in scores
    ]


def _numbers_above_cut(scores: Tensor, number: int) -> tuple[int, int]:
    """Return how many scores are surely, and how many may be, among the best."""
    if len(scores) <= number:
        return len(scores), len(scores)
    cut = scores.sort(descending=True).values[number - 1]
    return int((scores > cut + BORDERLINE).sum()), int(
        (scores >= cut - BORDERLINE).sum()
    )
