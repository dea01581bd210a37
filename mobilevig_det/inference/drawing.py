"""Draw the result of a detector into its image."""

from typing import Any, Protocol

import cv2
import numpy as np
import pycocotools.mask as mask_utils

from .visualization import draw_detections

# Larger images are drawn smaller, and masks are predicted in coordinates of the model's
# input: a hundred masks of a gigapixel don't fit into a memory.
MAX_PIXELS = 2**24
MAX_SIDE = 2**15


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
    drawn_height, drawn_width = image.shape[:2]
    masks = None
    if result.rles is not None:
        masks = _MasksOnDemand(result.rles, (drawn_height, drawn_width))
    return draw_detections(
        image,
        result.boxes * np.array([drawn_width / width, drawn_height / height] * 2),
        result.labels,
        result.scores,
        result.classes,
        masks,
        result.palette,
    )


class _MasksOnDemand:
    """Masks that are decoded and resized one at a time, because all can be large."""

    def __init__(self, rles: list[dict], size: tuple[int, int]) -> None:
        self.rles = rles
        self.size = size

    def __getitem__(self, index: int) -> np.ndarray:
        mask = mask_utils.decode(self.rles[index])
        if mask.shape != self.size:
            mask = cv2.resize(mask, self.size[::-1], interpolation=cv2.INTER_NEAREST)
        return mask
