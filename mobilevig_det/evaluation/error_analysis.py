"""Where a detector loses its AP, in the manner of COCO's own analysis.

The steps are those of the COCO analysis toolkit (cocodataset.org), which
relaxes the evaluation of a class one kind of error at a time: boxes or masks
that are only roughly in place (IoU of 0.1 instead of 0.5), then confusions
with other classes, then whatever is found in the background; what is still
lacking then was not found at all. All matching is pycocotools'.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZES = ('all', 'small', 'medium', 'large')  # COCOeval's, 32 and 96 pixels
LOSSES = ('localisation', 'classification', 'background', 'missed')
LOOSE_IOU = 0.1
STRICT_IOUS = np.linspace(0.5, 0.95, 10)


class Loss(NamedTuple):
    """Of one class and size; NaN where there is no object.

    ``ap50`` and the four losses add up to 1: what the AP at an IoU of 0.5
    would gain without this kind of error, and those before it.
    """

    objects: int
    ap: float
    ap75: float
    ap50: float
    localisation: float
    classification: float
    background: float
    missed: float


def losses(
    truth: COCO,
    found: COCO,
    kind: str,
    category_ids: Sequence[int],
    sizes: Sequence[str] = SIZES,
) -> Iterator[dict[str, Loss]]:
    """The losses of one class after the other.

    Args:
        truth (COCO): The annotations.
        found (COCO): The detections, from ``truth.loadRes``.
        kind (str): 'bbox' or 'segm': what is compared.
        category_ids (Sequence[int]): The classes.
        sizes (Sequence[str]): Object sizes, of :data:`SIZES`.

    Yields:
        dict: A :class:`Loss` for each size.
    """
    by_image = defaultdict(list)
    for annotation in truth.dataset['annotations']:
        if annotation['category_id'] in set(category_ids):
            by_image[annotation['image_id']].append(annotation)
    for category_id in category_ids:
        images = sorted(
            {
                annotation['image_id']
                for coco in (truth, found)
                for annotation in coco.loadAnns(coco.getAnnIds(catIds=[category_id]))
            }
        )
        annotations = [a for image in images for a in by_image[image]]
        own = [a for a in annotations if a['category_id'] == category_id]
        # Other classes become regions where nothing counts.
        others = [
            dict(a, category_id=category_id, iscrowd=1)
            for a in annotations
            if a['category_id'] != category_id
        ]
        detections = found.loadAnns(found.getAnnIds(catIds=[category_id]))
        strict, objects = _precision(
            truth, own, detections, images, kind, [*STRICT_IOUS, LOOSE_IOU]
        )
        loose, _ = _precision(
            truth, own + others, detections, images, kind, [LOOSE_IOU]
        )
        yield {
            size: _loss(
                strict[..., SIZES.index(size)],
                loose[0, :, SIZES.index(size)],
                objects[SIZES.index(size)],
            )
            for size in sizes
        }


def _loss(strict: np.ndarray, loose: np.ndarray, objects: int) -> Loss:
    """From precisions of shape (IoUs, recalls) and (recalls, )."""
    if objects == 0:
        return Loss(0, *[np.nan] * 7)
    at_iou = strict.mean(1)
    steps = [at_iou[0], at_iou[-1], loose.mean(), (loose > 0).mean(), 1.0]
    return Loss(
        objects, at_iou[:10].mean(), at_iou[5], at_iou[0], *np.diff(steps).tolist()
    )


def _precision(
    truth: COCO,
    annotations: list[dict],
    detections: list[dict],
    images: list[int],
    kind: str,
    ious: list[float],
) -> tuple:
    """COCOeval's precision for one class, of shape (IoUs, recalls, sizes),
    and the number of objects of each size."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in annotations, detections:
            coco = COCO()
            coco.dataset = dict(
                images=truth.loadImgs(images),
                categories=truth.dataset['categories'],
                # COCOeval writes into them.
                annotations=[dict(entry) for entry in entries],
            )
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(*sides, kind)
        evaluation.params.iouThrs = np.array(ious)
        evaluation.params.maxDets = [100]
        evaluation.params.useCats = 0  # there is but one
        evaluation.evaluate()
        evaluation.accumulate()
    number = len(evaluation.params.imgIds)
    objects = [
        sum(
            int(np.sum(np.equal(image['gtIgnore'], 0)))
            for image in evaluation.evalImgs[i * number : (i + 1) * number]
            if image is not None
        )
        for i in range(len(SIZES))
    ]
    return evaluation.eval['precision'][:, :, 0, :, 0], objects


def mean_loss(all_losses: Sequence[Loss]) -> Loss:
    """The mean over the classes that have objects, as COCO's AP is one."""
    present = [loss for loss in all_losses if loss.objects]
    if not present:
        return Loss(0, *[np.nan] * 7)
    return Loss(
        sum(loss.objects for loss in present),
        *np.mean([loss[1:] for loss in present], axis=0).tolist(),
    )


def confusion(
    truth: COCO,
    found: COCO,
    kind: str,
    category_ids: Sequence[int],
    score_thr: float,
    iou_thr: float = 0.5,
) -> np.ndarray:
    """Count which class was taken for which.

    Each detection takes the object that it overlaps most, one of its own
    class first, from the highest score to the lowest; each object is taken
    once. What lies in a crowd doesn't count.

    Returns:
        np.ndarray: Integers of shape (C + 1, C + 1): a row for each true
        class, then one for the background; a column for each predicted
        class, then one for what was missed.
    """
    label = {id: i for i, id in enumerate(category_ids)}
    counts = np.zeros((len(label) + 1, len(label) + 1), int)
    for image in truth.getImgIds():
        objects = [
            a
            for a in truth.loadAnns(truth.getAnnIds(imgIds=[image]))
            if a['category_id'] in label
        ]
        detections = [
            a
            for a in found.loadAnns(found.getAnnIds(imgIds=[image]))
            if a['category_id'] in label and a['score'] >= score_thr
        ]
        detections.sort(key=lambda detection: -detection['score'])
        crowd = [int(a.get('iscrowd', 0)) for a in objects]
        free = {i for i in range(len(objects)) if not crowd[i]}
        ious = np.zeros((len(detections), len(objects)))
        if detections and objects:
            ious = mask_utils.iou(
                _shapes(found, detections, kind), _shapes(truth, objects, kind), crowd
            )
        for detection, overlaps in zip(detections, ious):
            category = detection['category_id']
            best = max(
                (i for i in free if overlaps[i] >= iou_thr),
                key=lambda i: (objects[i]['category_id'] == category, overlaps[i]),
                default=None,
            )
            if best is not None:
                free.discard(best)
                row = label[objects[best]['category_id']]
            elif any(c and o >= iou_thr for c, o in zip(crowd, overlaps)):
                continue
            else:
                row = -1
            counts[row, label[category]] += 1
        for i in free:
            counts[label[objects[i]['category_id']], -1] += 1
    return counts


def _shapes(coco: COCO, annotations: list[dict], kind: str) -> list:
    if kind == 'segm':
        return [coco.annToRLE(annotation) for annotation in annotations]
    return [annotation['bbox'] for annotation in annotations]
