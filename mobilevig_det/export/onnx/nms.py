"""NMS and top-k selection of MMDetection in ONNX.

A box that a threshold removes stays in place with the score ``REMOVED``, below every
true score: so no runtime meets an empty tensor before NMS.
"""

from .graph import INT64, Graph, Value

REMOVED = -1.0
NOT_REMOVED = -0.5  # a threshold between REMOVED and 0


def flatten_map(g: Graph, feature: Value, width: int) -> Value:
    """Reshape a map (1, A * width, H, W) to (H * W * A, width), in order of priors."""
    return g.Reshape(g.Transpose(feature, perm=[0, 2, 3, 1]), [-1, width])


def length(g: Graph, x: Value) -> Value:
    """Return the size of the first axis, of shape (1,)."""
    return g.Shape(x, start=0, end=1)


def top_k(g: Graph, scores: Value, k: int) -> tuple[Value, Value]:
    """Return the best k of N scores, or all if there are fewer, and their indices."""
    return g.TopK(scores, g.Min(length(g, scores), [k]), axis=0, outputs=2)


def keep_if(g: Graph, condition: Value, scores: Value) -> Value:
    """Set the scores to ``REMOVED`` where the condition does not hold."""
    return g.Where(condition, scores, REMOVED)


def batched_nms(
    g: Graph, boxes: Value, scores: Value, ids: Value, number: int, cfg
) -> tuple[Value, Value]:
    """``mmcv.ops.batched_nms`` of boxes of a minimum size, then the best of all.

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
