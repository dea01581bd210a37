"""Drawings of results; those of detections are in test_visualization.py."""

from mobilevig_det.inference import results
from mobilevig_det.inference.images import InputImage
from mobilevig_det.inference.visualization import draw_detections

import numpy as np
import pycocotools.mask as mask_utils


def test_large_images_are_reduced_with_their_boxes_and_masks(monkeypatch):
    half = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    boxes = np.float32([[10, 20, 110, 90], [200, 100, 390, 190]])
    masks = np.zeros((2, 200, 400), np.uint8)
    masks[0, 30:80, 20:100] = masks[1, 110:180, 220:380] = 1
    arguments = [0, 1], [0.9, 0.8], ('cat', 'dog')
    full = half.repeat(2, 0).repeat(2, 1)
    result = results.Detections(
        InputImage('large.png', pixels=full),
        ('cat', 'dog'),
        scores=np.float32([0.9, 0.8]),
        labels=np.array([0, 1]),
        boxes=boxes,
        rles=[mask_utils.encode(np.asfortranarray(mask)) for mask in masks],
    )
    expected = draw_detections(full, boxes, *arguments, masks)
    np.testing.assert_array_equal(result.draw(), expected)
    monkeypatch.setattr(results, 'MAX_PIXELS', 100 * 200)
    expected = draw_detections(half, boxes / 2, *arguments, masks[:, ::2, ::2])
    np.testing.assert_array_equal(result.draw(), expected)
