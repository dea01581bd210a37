"""Anchors, points and box decoding of MMDetection in ONNX.

Boxes are rows of x1, y1, x2, y2 in pixels of the image.
"""

import numpy as np

from .graph import FLOAT, Graph, Value


def _grid(g: Graph, feature: Value, x_to, y_to, strides, offset: float, base) -> Value:
    """Compute ``base + x * x_to + y * y_to`` for each pixel of a feature map.

    x and y are the pixel's coordinates in the image; rows of pixels come one after
    the other. The shape is (H * W * A, 4).
    """
    sides = []
    for axis, stride in ((3, strides[0]), (2, strides[1])):
        side = g.Squeeze(g.Shape(feature, start=axis, end=axis + 1))
        steps = g.Cast(g.Range(0, side, 1), to=FLOAT)
        sides.append((steps + float(offset)) * float(stride))
    x = g.Reshape(sides[0], [1, -1, 1, 1]) * np.asarray([[[x_to]]], np.float32)
    y = g.Reshape(sides[1], [-1, 1, 1, 1]) * np.asarray([[[y_to]]], np.float32)
    return g.Reshape((x + y) + np.asarray([[base]], np.float32), [-1, 4])


def grid_anchors(g: Graph, generator, level: int, feature: Value) -> Value:
    """``AnchorGenerator.single_level_grid_priors``: (H * W * A, 4)."""
    base = generator.base_anchors[level].numpy()
    strides = generator.strides[level]
    return _grid(g, feature, [1, 0, 1, 0], [0, 1, 0, 1], strides, 0.0, base)


def grid_points(g: Graph, generator, level: int, feature: Value) -> Value:
    """``MlvlPointGenerator.single_level_grid_priors`` with strides.

    Rows are x, y, stride along x, stride along y; the shape is (H * W, 4).
    """
    strides = generator.strides[level]
    base = [[0, 0, *strides]]
    return _grid(
        g, feature, [1, 0, 0, 0], [0, 1, 0, 0], strides, generator.offset, base
    )


def clip(g: Graph, boxes: Value, size: Value) -> Value:
    """Clip boxes (..., 4) to an image of ``size`` (height, width)."""
    sides = g.Cast(g.Gather(size, [1, 0, 1, 0]), to=FLOAT)
    return g.Min(g.Max(boxes, 0.0), sides)


def decode_delta(g: Graph, coder, priors: Value, deltas: Value, size: Value) -> Value:
    """``DeltaXYWHBBoxCoder.decode``, clipped to ``size``; shapes (..., 4)."""
    stds, means = (np.asarray(x, np.float32) for x in (coder.stds, coder.means))
    deltas = deltas * stds + means
    dxy, dwh = g.Split(deltas, axis=-1, num_outputs=2, outputs=2)
    low, high = g.Split(priors, axis=-1, num_outputs=2, outputs=2)
    # wh_ratio_clip: every call of MMDetection leaves it at its default.
    limit = float(np.abs(np.log(16 / 1000)))
    sides = high - low
    centre = (low + high) * 0.5 + sides * dxy
    half = (sides * g.Exp(g.Clip(dwh, -limit, limit))) * 0.5
    return clip(g, g.Concat(centre - half, centre + half, axis=-1), size)


def decode_distance(g: Graph, points: Value, distances: Value, size: Value) -> Value:
    """``DistancePointBBoxCoder.decode`` of points (N, 2), clipped to ``size``."""
    before, after = g.Split(distances, axis=-1, num_outputs=2, outputs=2)
    return clip(g, g.Concat(points - before, points + after, axis=-1), size)
