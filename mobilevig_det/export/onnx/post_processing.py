"""Post-processing of MMDetection in ONNX: anchors, box decoding, top-k and NMS.

Boxes are rows (x1, y1, x2, y2) in pixels of the image. A box below a threshold is not
removed but gets the score ``REMOVED``, which is lower than every valid score. This
avoids empty tensors before NMS, which not all runtimes support.
"""

import numpy as np

from .graph import FLOAT, INT64, Graph, Value

REMOVED = -1.0
NOT_REMOVED = -0.5  # a threshold between REMOVED and 0


def _grid(g: Graph, feature: Value, x_to, y_to, strides, offset: float, base) -> Value:
    """Compute ``base + x * x_to + y * y_to`` for each pixel of a feature map.

    x and y are the image coordinates of the pixel. The pixels are in row-major order,
    and the result has the shape (H * W * A, 4).
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
    # The default of wh_ratio_clip, which MMDetection never changes.
    limit = float(np.abs(np.log(16 / 1000)))
    sides = high - low
    centre = (low + high) * 0.5 + sides * dxy
    half = (sides * g.Exp(g.Clip(dwh, -limit, limit))) * 0.5
    return clip(g, g.Concat(centre - half, centre + half, axis=-1), size)


def decode_distance(g: Graph, points: Value, distances: Value, size: Value) -> Value:
    """``DistancePointBBoxCoder.decode`` of points (N, 2), clipped to ``size``."""
    before, after = g.Split(distances, axis=-1, num_outputs=2, outputs=2)
    return clip(g, g.Concat(points - before, points + after, axis=-1), size)


def flatten_map(g: Graph, feature: Value, width: int) -> Value:
    """Reshape a map (1, A * width, H, W) to (H * W * A, width), in order of priors."""
    return g.Reshape(g.Transpose(feature, perm=[0, 2, 3, 1]), [-1, width])


def length(g: Graph, x: Value) -> Value:
    """Return the length of the first axis as a tensor of shape (1,)."""
    return g.Shape(x, start=0, end=1)


def top_k(g: Graph, scores: Value, k: int) -> tuple[Value, Value]:
    """Return the k highest of N scores (all if N < k) and their indices."""
    return g.TopK(scores, g.Min(length(g, scores), [k]), axis=0, outputs=2)


def keep_if(g: Graph, condition: Value, scores: Value) -> Value:
    """Set the scores to ``REMOVED`` where the condition does not hold."""
    return g.Where(condition, scores, REMOVED)


def batched_nms(
    g: Graph, boxes: Value, scores: Value, ids: Value, number: int, cfg
) -> tuple[Value, Value]:
    """``mmcv.ops.batched_nms`` with ``min_bbox_size`` and ``max_per_img``.

    Args:
        g (Graph): The graph to append to.
        boxes (Value): (N, 4).
        scores (Value): (N,).
        ids (Value): int64 (N,). Boxes of different ids don't suppress each other.
        number (int): Number of ids, which are 0 to ``number - 1``.
        cfg (ConfigDict): ``test_cfg``, with ``nms.iou_threshold``, ``max_per_img``
            and perhaps ``min_bbox_size``.

    Returns:
        tuple[Value, Value]: Indices of the boxes and their scores, in descending
        order of score.
    """
    if cfg.get('min_bbox_size', -1) >= 0:
        sides = g.Sub(*g.Split(boxes, axis=1, num_outputs=2, outputs=2)[::-1])
        shorter_side = g.ReduceMin(sides, [1], keepdims=0)
        scores = keep_if(g, shorter_side > float(cfg.min_bbox_size), scores)
    is_of_id = g.Equal(g.Unsqueeze(ids, [0]), [[i] for i in range(number)])
    table = keep_if(g, is_of_id, g.Unsqueeze(scores, [0]))
    found = _nms(g, g.Unsqueeze(boxes, [0]), g.Unsqueeze(table, [0]), NOT_REMOVED, cfg)
    index = g.Gather(found, 2, axis=1)
    best, order = top_k(g, g.Gather(scores, index), cfg.max_per_img)
    return g.Gather(index, order), best


def multiclass_nms(
    g: Graph, boxes: Value, scores: Value, cfg
) -> tuple[Value, Value, Value]:
    """``mmdet.models.layers.multiclass_nms``.

    Args:
        g (Graph): The graph to append to.
        boxes (Value): (N, C, 4), or (N, 1, 4) where classes share them.
        scores (Value): (N, C), without the background class.
        cfg (ConfigDict): ``test_cfg.rcnn``.

    Returns:
        tuple[Value, Value, Value]: Boxes (n, 4), scores (n,) and labels (n,), in
        descending order of score.
    """
    # Classes are on the batch axis because each has its own boxes.
    num_classes = g.Shape(scores, start=1, end=2)
    boxes = g.Transpose(boxes, perm=[1, 0, 2])
    boxes = g.Expand(boxes, g.Concat(num_classes, [1, 1], axis=0))
    scores = g.Transpose(scores, perm=[1, 0])
    found = _nms(g, boxes, g.Unsqueeze(scores, [1]), float(cfg.score_thr), cfg)
    where = g.Gather(found, [0, 2], axis=1)
    best, order = top_k(g, g.GatherND(scores, where), cfg.max_per_img)
    where = g.Gather(where, order)
    return g.GatherND(boxes, where), best, g.Gather(where, 0, axis=1)


def _nms(g: Graph, boxes: Value, scores: Value, score_thr: float, cfg) -> Value:
    """NonMaxSuppression of boxes (B, N, 4) with scores (B, C, N).

    Each class keeps at most ``max_per_img`` boxes, as many as all classes together.

    Returns:
        Value: int64 (n, 3): indices of batch, class and box.
    """
    found = g.NonMaxSuppression(
        boxes, scores, [cfg.max_per_img], [float(cfg.nms.iou_threshold)], [score_thr]
    )
    return g.Cast(found, to=INT64)
