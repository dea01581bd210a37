"""What MMDetection itself detects, and what it would with thresholds moved."""

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

# How far a score or an overlap may be from a threshold to fall on either side.
NEAR = 1e-3
# Of a runtime's sums, relative to the largest; how often it is tried.
ROUNDING = 1e-6
JITTERS = 4


class Detections(NamedTuple):
    """The outputs of a detector's file, docs/export.md."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


class Reference:
    """MMDetection's own prediction for an image, without rescaling."""

    def __init__(self, detector: BaseDetector, example: Example):
        self._detector = detector
        height, width = example.size
        self._meta = dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0),
        )
        self._two_stage = hasattr(detector, 'roi_head')
        # Whose cuts can't be seen in what comes out.
        self._head = detector.rpn_head if self._two_stage else detector.bbox_head
        with torch.no_grad():
            self._maps = detector.extract_feat(example.image)
            self._outs = self._head(self._maps)

    def detections(self, with_masks: bool = True) -> Detections:
        """What the model detects."""
        return self._detect(self._head.test_cfg, with_masks)

    def neighbours(self) -> Iterator[Detections]:
        """The same, with the first head's thresholds moved by NEAR and less:
        the further they move, the more else changes with them."""
        cfg = self._head.test_cfg
        for change in (NEAR, NEAR / 10, NEAR / 100, NEAR / 1000):
            for sign in (-1, 1):
                moved = copy.deepcopy(cfg)
                moved.nms.iou_threshold += sign * change
                yield self._detect(moved, False)
        # Of nearly equal scores, which are many near 1, either may go first.
        exact = self._outs
        for seed in range(JITTERS):
            self._outs = (_jittered(exact[0], seed), *exact[1:])
            yield self._detect(cfg, False)
        self._outs = exact
        if cfg.get('nms_pre', -1) > 0:
            levels = [score.sigmoid().flatten() for score in self._outs[0]]
            cuts = [_cuts(x, cfg.nms_pre) for x in levels]
            for number in (min(low for low, _ in cuts), max(high for _, high in cuts)):
                moved = copy.deepcopy(cfg)
                moved.nms_pre = max(number, 1)
                yield self._detect(moved, False)
        if self._two_stage:
            whole = copy.deepcopy(cfg)
            whole.max_per_img = 10**9
            for number in _cuts(self._first_stage(whole).scores, cfg.max_per_img):
                moved = copy.deepcopy(cfg)
                moved.max_per_img = max(number, 1)
                yield self._detect(moved, False)

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
        """Before they are pasted."""
        roi_head = self._detector.roi_head
        if not len(found):
            height, width = roi_head.mask_roi_extractor.roi_layers[0].output_size
            return torch.zeros(0, height, width)
        results = roi_head._mask_forward(self._maps, bbox2roi([found.bboxes]))
        preds = results['mask_preds'].sigmoid()
        if roi_head.mask_head.class_agnostic:
            return preds[:, 0]
        return preds[range(len(preds)), found.labels]


def _jittered(scores: list[Tensor], seed: int) -> list[Tensor]:
    """Logits with the rounding of another runtime."""
    generator = torch.Generator().manual_seed(seed)
    return [
        score
        + ROUNDING * score.abs().max() * torch.randn(score.shape, generator=generator)
        for score in scores
    ]


def _cuts(scores: Tensor, number: int) -> tuple[int, int]:
    """How many of the scores are surely, and how many may be, among the best."""
    if len(scores) <= number:
        return len(scores), len(scores)
    cut = scores.sort(descending=True).values[number - 1]
    return int((scores > cut + NEAR).sum()), int((scores >= cut - NEAR).sum())
