"""Compare detections of an exported file with MMDetection's, allowing for rounding."""

import copy
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from torch import Tensor

from .examples import Example

# A score or an IoU this close to a threshold may fall on either side of it.
BORDERLINE = 1e-3
# Noise that simulates the rounding of a runtime, relative to the largest logit, and the
# number of trials.
ROUNDING = 1e-6
NOISE_SEEDS = 4
BOX_TOLERANCE = 0.05  # pixels
SCORE_TOLERANCE = 1e-4
# Maximum number of unmatched detections of the file, and of the model, in an image:
# this number or this fraction, whichever is larger. Rounding does not explain more.
MAX_UNMATCHED, MAX_UNMATCHED_SHARE = 2, 0.05


class Detections(NamedTuple):
    """Outputs of an exported detector; see docs/export.md, "The file"."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


class Reference:
    """Predictions of MMDetection for an image, without rescaling.

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
        # The effect of this head's thresholds is not visible in the final detections.
        self._head = detector.rpn_head if self._two_stage else detector.bbox_head
        with torch.no_grad():
            self._maps = detector.extract_feat(example.image)
            self._outs = self._head(self._maps)

    def detections(self, with_masks: bool = True) -> Detections:
        """Return the detections of the model."""
        return self._detect(self._head.test_cfg, with_masks)

    def perturbed_detections(self) -> Iterator[Detections]:
        """Yield the detections, without masks, that other rounding could cause.

        The thresholds of the first head are moved by up to BORDERLINE, in several
        steps, because larger steps change more detections at once.
        """
        cfg = self._head.test_cfg
        for change in (BORDERLINE / 10**i for i in range(4)):
            for sign in (-1, 1):
                yield self._detect_with(iou_threshold=sign * change)
        # Noise changes the order of nearly equal scores, which are frequent near 1.
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
        """Detect with a modified ``test_cfg`` of the first head."""
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
        """Return masks in the coordinates of their boxes, without pasting."""
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
    """Add noise to logits that simulates the rounding of another runtime."""
    generator = torch.Generator().manual_seed(seed)
    return [
        score
        + ROUNDING * score.abs().max() * torch.randn(score.shape, generator=generator)
        for score in scores
    ]


def _numbers_above_cut(scores: Tensor, number: int) -> tuple[int, int]:
    """Return how many scores are certainly, and possibly, among the best."""
    if len(scores) <= number:
        return len(scores), len(scores)
    cut = scores.sort(descending=True).values[number - 1]
    return int((scores > cut + BORDERLINE).sum()), int(
        (scores >= cut - BORDERLINE).sum()
    )


class Matches(NamedTuple):
    """Indices of matching detections, and of those without a match.

    Attributes:
        pairs: Pairs (index in the file's detections, index in the model's).
        file_only: Unmatched detections of the file.
        model_only: Unmatched detections of the model.
    """

    pairs: list[tuple[int, int]]
    file_only: list[int]
    model_only: list[int]


def match(file: Detections, model: Detections) -> Matches:
    """Match detections of the same label within the tolerances, nearest boxes first."""
    distance = np.abs(file.boxes[:, None] - model.boxes[None]).max(-1, initial=0)
    same = file.labels[:, None] == model.labels[None]
    same &= distance <= BOX_TOLERANCE
    same &= np.abs(file.scores[:, None] - model.scores[None]) <= SCORE_TOLERANCE
    pairs = []
    rows, columns = np.nonzero(same)
    for k in np.argsort(distance[rows, columns], kind='stable'):
        i, j = int(rows[k]), int(columns[k])
        if same[i, j]:
            pairs.append((i, j))
            same[i], same[:, j] = False, False
    first, second = ({pair[i] for pair in pairs} for i in (0, 1))
    return Matches(
        pairs,
        [i for i in range(len(file.scores)) if i not in first],
        [j for j in range(len(model.scores)) if j not in second],
    )


def unexplained_differences(
    matches: Matches,
    file: Detections,
    model: Detections,
    test_cfg,
    perturbed: Iterable[Detections],
) -> list[str]:
    """Report unmatched detections that rounding does not explain.

    Rounding explains a few detections within BORDERLINE of a threshold.

    Args:
        matches (Matches): From :func:`match`.
        file (Detections): Detections of the file.
        model (Detections): Detections of the model.
        test_cfg (ConfigDict): The thresholds of the last stage: score, IoU, number.
        perturbed (Iterable[Detections]): Detections of the model with its other
            thresholds moved.

    Returns:
        list[str]: An error message for each unexplained detection.
    """
    left = [
        (side, mine, i)
        for side, mine, alone in (
            ('the file', file, matches.file_only),
            ('PyTorch', model, matches.model_only),
        )
        for i in alone
        if not _is_borderline(mine, i, file, model, test_cfg)
    ]
    for moved in perturbed if left else ():
        # Explained: the moved model has the file's detection, or lost its own.
        missing, gone = match(file, moved).file_only, match(model, moved).file_only
        left = [
            (side, mine, i)
            for side, mine, i in left
            if (i in missing if mine is file else i not in gone)
        ]
        if not left:
            break
    return [
        f'{side} alone has label {mine.labels[i]}, score {mine.scores[i]:.4f}, box '
        f'{mine.boxes[i].round(2).tolist()}'
        for side, mine, i in left
    ] + _too_many_unmatched(matches)


def _too_many_unmatched(matches: Matches) -> list[str]:
    """Report if more detections are unmatched than thresholds can explain."""
    errors = []
    for side, alone in ('the file', matches.file_only), ('PyTorch', matches.model_only):
        number = len(matches.pairs) + len(alone)
        most = max(MAX_UNMATCHED, int(MAX_UNMATCHED_SHARE * number))
        if len(alone) > most:
            errors.append(
                f'{side} alone has {len(alone)} of its {number} detections; at most '
                f'{most} may be excused as borderline'
            )
    return errors


def _is_borderline(
    mine: Detections, i: int, file: Detections, model: Detections, cfg
) -> bool:
    """Return whether the last stage's thresholds may remove detection i."""
    score = mine.scores[i]
    if abs(score - cfg.get('score_thr', 0)) <= BORDERLINE:
        return True
    for other in (file, model):
        full = len(other.scores) >= cfg.max_per_img
        if full and score <= other.scores.min() + BORDERLINE:
            return True
        better = other.scores >= score - SCORE_TOLERANCE
        better &= other.labels == mine.labels[i]
        ious = _ious(mine.boxes[i], other.boxes[better])
        if (np.abs(ious - cfg.nms.iou_threshold) <= BORDERLINE).any():
            return True
    return False


def _ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    area, areas = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others))
    return both / np.maximum(area + areas - both, 1e-12)


def smallest_mask_iou(
    pairs: list[tuple[int, int]], file: np.ndarray, model: np.ndarray, threshold: float
) -> float:
    """Return the smallest IoU of matching masks, at the resolution of the file.

    Pixels within BORDERLINE of the threshold are ignored.

    Args:
        pairs (list[tuple[int, int]]): Pairs of indices, from :class:`Matches`.
        file (np.ndarray): Mask probabilities of the file, (N, h, w).
        model (np.ndarray): Mask probabilities of the model, (M, h, w).
        threshold (float): The threshold of the probabilities.
    """
    worst = 1.0
    for i, j in pairs:
        sure = np.abs(model[j] - threshold) > BORDERLINE
        ours, theirs = file[i][sure] >= threshold, model[j][sure] >= threshold
        union = (ours | theirs).sum()
        if union:
            worst = min(worst, float((ours & theirs).sum() / union))
    return worst
