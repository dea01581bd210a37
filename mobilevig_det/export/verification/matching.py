"""Match detections of a file with those of the model."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .reference import BORDERLINE, Detections

BOX_TOLERANCE = 0.05  # pixels
SCORE_TOLERANCE = 1e-4
# How many of an image's detections may be unmatched, of the file and of the model: so
# many, or this share of them. Rounding doesn't explain more.
MAX_UNMATCHED, MAX_UNMATCHED_SHARE = 2, 0.05


class Matches(NamedTuple):
    """Indices of detections that are the same, and of those without a match.

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
    """Report unmatched detections that rounding doesn't explain.

    It explains those within BORDERLINE of a threshold, if they are few.

    Args:
        matches (Matches): From :func:`match`.
        file (Detections): Detections of the file.
        model (Detections): Detections of the model.
        test_cfg (ConfigDict): The thresholds of the last stage: score, IoU, number.
        perturbed (Iterable[Detections]): Detections of the model with its other
            thresholds moved.

    Returns:
        list[str]: An error message for each.
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
        # The model detects the file's detections too, or its own no longer.
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
    """Return the smallest IoU of paired masks, in the file's resolution.

    Pixels within BORDERLINE of the threshold don't count.
    """
    worst = 1.0
    for i, j in pairs:
        sure = np.abs(model[j] - threshold) > BORDERLINE
        ours, theirs = file[i][sure] >= threshold, model[j][sure] >= threshold
        union = (ours | theirs).sum()
        if union:
            worst = min(worst, float((ours & theirs).sum() / union))
    return worst
