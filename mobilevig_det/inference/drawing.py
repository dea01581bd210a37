"""Draw detections into an image."""

import functools
import threading
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import pycocotools.mask as mask_utils

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

# Larger images are drawn smaller, and masks are predicted in coordinates of the model's
# input: a hundred masks of a gigapixel don't fit into a memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15
_visualizer_lock = threading.Lock()


class Drawable(Protocol):
    """What is drawn; see :class:`.results.Detections`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    rles: list[dict] | None
    classes: Any
    palette: Any


def draw(image: np.ndarray, result: Drawable) -> np.ndarray:
    """Draw boxes, masks, names and scores.

    Args:
        image (np.ndarray): uint8 of shape (H, W, 3), BGR.
        result (Drawable): What was found in it.

    Returns:
        np.ndarray: A new image of the same size or, of one of more than
        ``MAX_PIXELS`` pixels, smaller.
    """
    height, width = image.shape[:2]
    factor = min((MAX_PIXELS / (height * width)) ** 0.5, MAX_SIDE / max(height, width))
    if factor < 1:
        size = max(1, int(width * factor)), max(1, int(height * factor))
        image = cv2.resize(image, size)
    palette = result.palette
    if palette is not None and len(palette) < len(result.classes):
        palette = None  # MMDetection refuses too few colours
    sample = _to_sample(result, (height, width), image.shape[:2])
    with _visualizer_lock, warnings.catch_warnings():
        # It warns of every contour that touches the edge.
        warnings.filterwarnings('ignore', '.*out of bounds')
        visualizer = _visualizer()
        visualizer.dataset_meta = dict(
            classes=result.classes, palette=palette or 'random'
        )
        visualizer.add_datasample(
            'image',
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            draw_gt=False,
            pred_score_thr=0,
        )
        return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


@functools.cache
def _visualizer() -> Any:
    from mmdet.visualization import DetLocalVisualizer

    return DetLocalVisualizer()


def _to_sample(
    result: Drawable, size: tuple[int, int], drawn: tuple[int, ...]
) -> 'DetDataSample':
    """Return MMDetection's data sample in coordinates of the drawing."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    # A box of no area, as in an image one pixel wide, can't be drawn.
    kept = np.flatnonzero((result.boxes[:, 2:] > result.boxes[:, :2]).all(1))
    scale = np.array([drawn[1] / size[1], drawn[0] / size[0]] * 2, np.float32)
    instances = InstanceData(
        bboxes=torch.from_numpy(result.boxes[kept] * scale),
        scores=torch.from_numpy(result.scores[kept]),
        labels=torch.from_numpy(result.labels[kept]),
    )
    if result.rles is not None:
        masks = np.zeros((len(kept), *drawn), bool)
        for mask, i in zip(masks, kept):  # of full size one at a time
            full = mask_utils.decode(result.rles[i])
            nearest = cv2.INTER_NEAREST
            mask[:] = cv2.resize(full, (drawn[1], drawn[0]), interpolation=nearest)
        instances.masks = torch.from_numpy(masks)
    sample = DetDataSample()
    sample.pred_instances = instances
    return sample
