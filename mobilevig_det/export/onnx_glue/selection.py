"""The best of many boxes: TopK and NMS.

What is left out has a score of LEFT_OUT, below every true one, and stays in
its place: so there is always something to sort, and no runtime meets an empty
tensor before NMS.
"""

from .boxes import INT64
from .graph import Graph, Value

LEFT_OUT = -1.0
LOWEST = -0.5  # between LEFT_OUT and 0


def rows(g: Graph, feature: Value, width: int) -> Value:
    """A map (1, A * width, H, W) as (H * W * A, width), in the order of the priors."""
    return g.Reshape(g.Transpose(feature, perm=[0, 2, 3, 1]), [-1, width])


def length(g: Graph, x: Value) -> Value:
    """Size of the first axis, shape (1,)."""
    return g.Shape(x, start=0, end=1)


def top_k(g: Graph, scores: Value, k: int) -> tuple[Value, Value]:
    """The best k scores of (N,), or all if there are fewer, and where they are."""
    return g.TopK(scores, g.Min(length(g, scores), [k]), axis=0, outputs=2)


def keep_if(g: Graph, condition: Value, scores: Value) -> Value:
    return g.Where(condition, scores, LEFT_OUT)


def larger_than(g: Graph, boxes: Value, side: float) -> Value:
    """Whether both sides of (N, 4) are longer than ``side``; (N,)."""
    x1, y1, x2, y2 = g.Split(boxes, axis=1, num_outputs=4, outputs=4)
    return g.Squeeze((x2 - x1 > float(side)) & (y2 - y1 > float(side)), [1])


def batched_nms(
    g: Graph, boxes: Value, scores: Value, ids: Value, number: int, cfg
) -> tuple[Value, Value]:
    """``mmcv.ops.batched_nms``, then the best ``max_per_img``.

    Args:
        g (Graph): Where it is written.
        boxes (Value): (N, 4).
        scores (Value): (N,).
        ids (Value): int64 (N,): boxes of different ids don't suppress each other.
        number (int): Of ids: 0, 1, ….
        cfg (ConfigDict): ``test_cfg``, with ``nms.iou_threshold`` and
            ``max_per_img``.

    Returns:
        tuple[Value, Value]: Which boxes, and their scores, by falling score.
    """
    is_of_id = g.Equal(g.Unsqueeze(ids, [0]), [[i] for i in range(number)])
    table = keep_if(g, is_of_id, g.Unsqueeze(scores, [0]))
    found = _nms(g, g.Unsqueeze(boxes, [0]), g.Unsqueeze(table, [0]), LOWEST, cfg)
    index = g.Gather(found, 2, axis=1)
    best, order = top_k(g, g.Gather(scores, index), cfg.max_per_img)
    return g.Gather(index, order), best


def multiclass_nms(
    g: Graph, boxes: Value, scores: Value, cfg
) -> tuple[Value, Value, Value]:
    """``mmdet.models.layers.multiclass_nms``.

    Args:
        g (Graph): Where it is written.
        boxes (Value): (N, C, 4), or (N, 1, 4) where classes share them.
        scores (Value): (N, C), without the background.
        cfg (ConfigDict): ``test_cfg.rcnn``.

    Returns:
        tuple[Value, Value, Value]: Boxes (n, 4), scores (n,) and labels (n,),
        by falling score.
    """
    # Classes on the batch axis, so that each has boxes of its own.
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
    """Boxes (B, N, 4), scores (B, C, N) -> int64 (n, 3): batch, class, box.

    No class keeps more than all together may: its best go first.
    """
    found = g.NonMaxSuppression(
        boxes, scores, [cfg.max_per_img], [float(cfg.nms.iou_threshold)], [score_thr]
    )
    return g.Cast(found, to=INT64)
