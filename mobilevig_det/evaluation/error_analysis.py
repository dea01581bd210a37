"""Error analysis of a detector, which follows the COCO analysis toolkit.

The toolkit (cocodataset.org) evaluates each class again while it ignores one more kind
of error at a time: first inaccurate localisation (an IoU of 0.1 suffices instead of
0.5), then confusion with other classes, then detections in the background. The rest of
the loss is due to missed objects. All matching is done by pycocotools.
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

SIZES = ('all', 'small', 'medium', 'large')  # COCO's, separated by 32² and 96² pixels
LOSSES = ('localisation', 'classification', 'background', 'missed')
LOOSE_IOU = 0.1
STRICT_IOUS = np.linspace(0.5, 0.95, 10)


class Loss(NamedTuple):
    """AP and losses of a class and an object size; NaN if there are no such objects.

    ``ap50`` and the four losses add up to 1. Each loss is the gain in AP50 when errors
    of this kind are ignored in addition to the kinds before it.

    Attributes:
        objects: Number of objects.
        ap: AP averaged over IoUs from 0.5 to 0.95.
        ap75: AP at an IoU of 0.75.
        ap50: AP at an IoU of 0.5.
        localisation: Loss by boxes or masks with an IoU from 0.1 to 0.5.
        classification: Loss by objects that were detected as another class.
        background: Loss by detections where there is no object.
        missed: Loss by objects that were not detected.
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
    truth: COCO, found: COCO, kind: str, category_ids: Sequence[int]
) -> Iterator[dict[str, Loss]]:
    """Compute the losses of each class.

    Args:
        truth (COCO): The annotations.
        found (COCO): The detections, from ``truth.loadRes``.
        kind (str): What to compare: 'bbox' or 'segm'.
        category_ids (Sequence[int]): Category ids of the classes.

    Yields:
        dict[str, Loss]: For each class, in the given order, the losses by object size
        (:data:`SIZES`).
    """
    wanted = set(category_ids)
    by_image = defaultdict(list)
    for annotation in truth.dataset['annotations']:
        if annotation['category_id'] in wanted:
            by_image[annotation['image_id']].append(annotation)
    for category_id in category_ids:
        own = truth.loadAnns(truth.getAnnIds(catIds=[category_id]))
        detections = found.loadAnns(found.getAnnIds(catIds=[category_id]))
        images = sorted({entry['image_id'] for entry in (*own, *detections)})
        # Objects of other classes become regions in which detections are ignored.
        others = [
            dict(annotation, category_id=category_id, iscrowd=1)
            for image in images
            for annotation in by_image[image]
            if annotation['category_id'] != category_id
        ]
        ious = [*STRICT_IOUS, LOOSE_IOU]
        strict, numbers = _precision(truth, own, detections, images, kind, ious)
        loose, _ = _precision(
            truth, own + others, detections, images, kind, [LOOSE_IOU]
        )
        yield {
            size: _loss(strict[..., i], loose[0, :, i], numbers[i])
            for i, size in enumerate(SIZES)
        }


def _loss(strict: np.ndarray, loose: np.ndarray, objects: int) -> Loss:
    """Compute losses from precisions of shapes (IoUs, recalls) and (recalls,)."""
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
) -> tuple[np.ndarray, list[int]]:
    """Evaluate one class with COCOeval.

    Returns:
        tuple: COCOeval's precision, of shape (IoUs, recalls, sizes), and the number
        of objects of each size.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in annotations, detections:
            coco = COCO()
            coco.dataset = dict(
                images=truth.loadImgs(images),
                categories=truth.dataset['categories'],
                annotations=[dict(entry) for entry in entries],  # COCOeval edits them
            )
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(*sides, kind)
        evaluation.params.iouThrs = np.array(ious)
        evaluation.params.maxDets = [100]
        evaluation.params.useCats = 0  # there is only one
        evaluation.evaluate()
        evaluation.accumulate()
    areas = [a['area'] for a in annotations if not a.get('iscrowd')]
    numbers = [
        sum(low <= area <= high for area in areas)
        for low, high in evaluation.params.areaRng
    ]
    return evaluation.eval['precision'][:, :, 0, :, 0], numbers


def mean_loss(all_losses: Sequence[Loss]) -> Loss:
    """Average the losses of the classes that have objects, as COCO's AP does.

    Args:
        all_losses (Sequence[Loss]): One loss for each class.

    Returns:
        Loss: The sum of the objects and the means of the other fields; NaN if there are
        no objects.
    """
    present = [loss for loss in all_losses if loss.objects]
    if not present:
        return Loss(0, *[np.nan] * 7)
    means = np.mean([loss[1:] for loss in present], axis=0).tolist()
    return Loss(sum(loss.objects for loss in present), *means)


def confusion(
    truth: COCO,
    found: COCO,
    kind: str,
    category_ids: Sequence[int],
    score_thr: float,
    iou_thr: float = 0.5,
) -> np.ndarray:
    """Compute the confusion matrix of a detector.

    In descending order of scores, each detection is matched with the unmatched object
    that it overlaps most; objects of its own class take precedence. Detections in a
    crowd region are ignored.

    Args:
        truth (COCO): The annotations.
        found (COCO): The detections, from ``truth.loadRes``.
        kind (str): What to compare: 'bbox' or 'segm'.
        category_ids (Sequence[int]): Category ids of the classes.
        score_thr (float): Detections with a lower score are ignored.
        iou_thr (float): Least IoU of a match. Defaults to 0.5.

    Returns:
        np.ndarray: Integers of shape (C + 1, C + 1). Rows are the true classes,
        followed by the background; columns are the predicted classes, followed by
        missed objects.
    """
    label = {id: i for i, id in enumerate(category_ids)}
    counts = np.zeros((len(label) + 1, len(label) + 1), int)
    for image in truth.getImgIds():
        objects, detections = (
            [a for a in coco.imgToAnns[image] if a['category_id'] in label]
            for coco in (truth, found)
        )
        detections = [d for d in detections if d['score'] >= score_thr]
        detections.sort(key=lambda detection: -detection['score'])
        crowd = [int(a.get('iscrowd', 0)) for a in objects]
        free = {i for i in range(len(objects)) if not crowd[i]}
        ious = np.zeros((len(detections), len(objects)))
        if detections and objects:
            ious = mask_utils.iou(
                _regions(found, detections, kind), _regions(truth, objects, kind), crowd
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


def _regions(coco: COCO, annotations: list[dict], kind: str) -> list:
    if kind == 'segm':
        return [coco.annToRLE(annotation) for annotation in annotations]
    return [annotation['bbox'] for annotation in annotations]
