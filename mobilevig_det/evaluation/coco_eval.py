"""COCO's matching of detections in C++, where faster-coco-eval is installed."""

import math

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

PARAMETERS = (
    'imgIds',
    'catIds',
    'iouThrs',
    'recThrs',
    'maxDets',
    'areaRng',
    'areaRngLbl',
    'useCats',
)


def make_coco_eval(truth: COCO, found: COCO, kind: str) -> COCOeval:
    """COCOeval, in C++ where that gives the same figures.

    It does not with ids that are no integers or scores that are no finite numbers.

    Args:
        truth (COCO): The annotations.
        found (COCO): The detections.
        kind (str): 'bbox' or 'segm'.
    """
    entries = [*truth.dataset.get('annotations', ()), *found.dataset['annotations']]
    if (
        faster_coco_eval is not None
        and all(type(image['id']) is int for image in truth.dataset['images'])
        and all(type(id) is int for id in truth.cats)
        and all(type(entry['id']) is int for entry in entries)
        and all(math.isfinite(entry.get('score', 0)) for entry in entries)
    ):
        return CompiledCOCOeval(truth, found, kind)
    return COCOeval(truth, found, kind)


class CompiledCOCOeval(COCOeval):
    """pycocotools' COCOeval, whose ``evaluate`` and ``accumulate`` run in C++.

    ``params``, ``eval`` (``precision``, ``recall``, ``scores``) and ``stats`` are
    pycocotools', which also sums up: faster-coco-eval's own AP counts another number
    of detections where ``maxDets`` is not (1, 10, 100). What belongs to single images
    (``evalImgs``, ``ious``) stays empty.
    """

    def evaluate(self) -> None:
        """Match the detections of every image, and accumulate."""
        # Its COCO looks ids up in sets; both share the entries.
        truth, found = (
            faster_coco_eval.COCO(coco.dataset) for coco in (self.cocoGt, self.cocoDt)
        )
        fast = faster_coco_eval.COCOeval_faster(truth, found, self.params.iouType)
        for name in PARAMETERS:
            setattr(fast.params, name, getattr(self.params, name))
        fast.evaluate()
        fast.accumulate()
        for name in PARAMETERS:  # sorted now
            setattr(self.params, name, getattr(fast.params, name))
        self.eval = {
            name: fast.eval[name] for name in ('precision', 'recall', 'scores')
        }

    def accumulate(self, p=None) -> None:
        """Nothing is left to do."""
