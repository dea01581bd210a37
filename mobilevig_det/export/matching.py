"""Detections of a file beside those of the model."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .reference import NEAR, Detections

PIXELS = 0.05
SCORE = 1e-4
# How many of an image's detections may have no partner, on either side: a rounding
# that moves more of them than a few is none.
ALONE, ALONE_SHARE = 2, 0.02


class Matches(NamedTuple):
    """Which are the same, and how far apart they are."""

    pairs: list[tuple[int, int]]  # of the file, of the model
    file_only: list[int]
    model_only: list[int]


def match(file: Detections, model: Detections) -> Matches:
    """Pair detections of one label that are within PIXELS and SCORE, the nearest
    boxes first."""
    distance = np.abs(file.boxes[:, None] - model.boxes[None]).max(-1, initial=0)
    same = file.labels[:, None] == model.labels[None]
    same &= distance <= PIXELS
    same &= np.abs(file.scores[:, None] - model.scores[None]) <= SCORE
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


def unexplained(
    found: Matches,
    file: Detections,
    model: Detections,
    test_cfg,
    neighbours: Iterable[Detections],
) -> list[str]:
    """The detections without a partner that aren't within NEAR of a threshold, and
    whether there are too many that are.

    Args:
        found (Matches): Of the two.
        file (Detections): Of the file.
        model (Detections): Of the model.
        test_cfg (ConfigDict): With the last thresholds: score, overlap, number.
        neighbours (Iterable[Detections]): What the model detects with its
            other thresholds moved.

    Returns:
        list[str]: Each in words.
    """
    left = [
        (side, mine, i)
        for side, mine, alone in (
            ('the file', file, found.file_only),
            ('PyTorch', model, found.model_only),
        )
        for i in alone
        if not _is_near(mine, i, file, model, test_cfg)
    ]
    for moved in neighbours if left else ():
        there = match(file, moved)
        here = match(model, moved)
        left = [
            (side, mine, i)
            for side, mine, i in left
            # Others come with it, or it goes.
            if (i in there.file_only if mine is file else i not in here.file_only)
        ]
        if not left:
            break
    return [
        f'{side} alone has label {mine.labels[i]}, score {mine.scores[i]:.4f}, box '
        f'{mine.boxes[i].round(2).tolist()}'
        for side, mine, i in left
    ] + _too_many(found)


def _too_many(found: Matches) -> list[str]:
    """In words, where more have no partner than thresholds can explain."""
    wrong = []
    for side, alone in ('the file', found.file_only), ('PyTorch', found.model_only):
        number = len(found.pairs) + len(alone)
        most = max(ALONE, int(ALONE_SHARE * number))
        if len(alone) > most:
            wrong.append(
                f'{side} alone has {len(alone)} of its {number} detections; at most '
                f'{most} may be excused as borderline'
            )
    return wrong


def _is_near(
    mine: Detections, i: int, file: Detections, model: Detections, cfg
) -> bool:
    """Whether the last thresholds may leave it out."""
    score = mine.scores[i]
    if abs(score - cfg.get('score_thr', 0)) <= NEAR:
        return True
    for other in (file, model):
        full = len(other.scores) >= cfg.max_per_img
        if full and score <= other.scores.min() + NEAR:
            return True
        better = (other.labels == mine.labels[i]) & (other.scores >= score - SCORE)
        overlaps = _overlaps(mine.boxes[i], other.boxes[better])
        if (np.abs(overlaps - cfg.nms.iou_threshold) <= NEAR).any():
            return True
    return False


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    area, areas = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (box, others))
    return both / np.maximum(area + areas - both, 1e-12)


def worst_mask(
    pairs: list[tuple[int, int]], file: np.ndarray, model: np.ndarray, threshold: float
) -> float:
    """The smallest IoU of paired masks, in the resolution of the file. Pixels
    within NEAR of the threshold may be on either side and don't count."""
    worst = 1.0
    for i, j in pairs:
        sure = np.abs(model[j] - threshold) > NEAR
        ours, theirs = file[i][sure] >= threshold, model[j][sure] >= threshold
        union = (ours | theirs).sum()
        if union:
            worst = min(worst, float((ours & theirs).sum() / union))
    return worst
