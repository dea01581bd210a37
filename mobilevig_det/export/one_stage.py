"""RetinaNet and RTMDet-Ins, whole, in ONNX."""

from typing import TYPE_CHECKING

import torch
from mmdet.models import BaseDetector

from .dense import DenseHead, to_onnx
from .onnx_glue.boxes import decode_delta, decode_distance, grid_anchors, grid_points
from .onnx_glue.dynamic_conv import dynamic_masks
from .onnx_glue.graph import Graph, Value
from .onnx_glue.graph_steps import STEPS
from .onnx_glue.selection import batched_nms, keep_if, larger_than, rows, top_k

if TYPE_CHECKING:
    import onnx

# What the layers are traced with; height and width may be any.
IMAGE = (1, 3, 160, 224)


def build_retinanet(detector: BaseDetector) -> 'onnx.ModelProto':
    """A fused RetinaNet that :func:`..covered.check_covered` has let through, as
    docs/export.md, "The file", describes it."""
    g, size, maps, outs = _dense(detector)
    head = detector.bbox_head
    levels = head.prior_generator.num_levels
    cls_scores, bbox_preds = outs[:levels], outs[levels:]
    scores, labels, (deltas, priors) = _candidates(
        g,
        head,
        cls_scores,
        [
            (rows(g, bbox_pred, 4), grid_anchors(g, head.prior_generator, i, bbox_pred))
            for i, bbox_pred in enumerate(bbox_preds)
        ],
    )
    boxes = decode_delta(g, head.bbox_coder, priors, deltas, size)
    index, scores = _post_process(g, head, boxes, scores, labels)
    return g.model(_detections(g, boxes, labels, scores, index))


def build_rtmdet_ins(detector: BaseDetector) -> 'onnx.ModelProto':
    """A fused RTMDet-Ins, likewise."""
    g, size, maps, outs = _dense(detector)
    head = detector.bbox_head
    levels = head.prior_generator.num_levels
    cls_scores, bbox_preds = outs[:levels], outs[levels : 2 * levels]
    kernel_preds, mask_feat = outs[2 * levels : 3 * levels], outs[-1]
    scores, labels, (distances, priors, kernels) = _candidates(
        g,
        head,
        cls_scores,
        [
            (
                rows(g, bbox_pred, 4),
                grid_points(g, head.prior_generator, i, bbox_pred),
                rows(g, kernel_pred, head.num_gen_params),
            )
            for i, (bbox_pred, kernel_pred) in enumerate(zip(bbox_preds, kernel_preds))
        ],
    )
    points = g.Gather(priors, [0, 1], axis=1)
    boxes = decode_distance(g, points, distances, size)
    index, scores = _post_process(g, head, boxes, scores, labels)
    masks = g.Sigmoid(
        dynamic_masks(
            g, head, mask_feat, g.Gather(kernels, index), g.Gather(priors, index)
        )
    )
    found = _detections(g, boxes, labels, scores, index)
    found['masks'] = (masks, 'float32', ['n', 'mask_height', 'mask_width'])
    return g.model(found)


def _dense(detector: BaseDetector) -> tuple[Graph, Value, list[Value], list[Value]]:
    """A graph with the detector's layers in it; its second input, and what the
    neck and the head give."""
    g = Graph()
    image = g.input('image', 'float32', [1, 3, 'height', 'width'])
    size = g.input('size', 'int64', [2])
    head = detector.bbox_head
    dense = to_onnx(DenseHead(detector, head), torch.rand(IMAGE), 'head', [2, 3])
    outs = g.call(dense, image, functions=STEPS)
    levels = head.prior_generator.num_levels
    return g, size, outs[:levels], outs[levels:]


def _candidates(
    g: Graph, head, cls_scores: list[Value], others: list[tuple[Value, ...]]
) -> tuple[Value, Value, list[Value]]:
    """``filter_scores_and_topk`` of each level, all together.

    Args:
        g (Graph): Where it is written.
        head (BaseDenseHead): With its ``test_cfg``.
        cls_scores (list[Value]): A map of each level.
        others (list[tuple[Value, ...]]): Of each level tensors with a row for
            each prior.

    Returns:
        tuple[Value, Value, list[Value]]: Scores, labels and rows of the best
        ``nms_pre`` pairs of a prior and a class. Scores under the threshold are
        left out (selection.py).
    """
    found = []
    number = head.cls_out_channels
    for cls_score, tensors in zip(cls_scores, others):
        scores = g.Reshape(g.Sigmoid(rows(g, cls_score, number)), [-1])
        scores, best = top_k(g, scores, head.test_cfg.nms_pre)
        prior = g.Div(best, number)
        rest = [g.Gather(tensor, prior) for tensor in tensors]
        found.append((scores, g.Mod(best, number), *rest))
    scores, labels, *rest = (g.Concat(*parts, axis=0) for parts in zip(*found))
    threshold = float(head.test_cfg.get('score_thr', 0))
    return keep_if(g, scores > threshold, scores), labels, rest


def _post_process(
    g: Graph, head, boxes: Value, scores: Value, labels: Value
) -> tuple[Value, Value]:
    """``_bbox_post_process``: which candidates, and their scores."""
    cfg = head.test_cfg
    if cfg.get('min_bbox_size', -1) >= 0:
        scores = keep_if(g, larger_than(g, boxes, cfg.min_bbox_size), scores)
    return batched_nms(g, boxes, scores, labels, head.num_classes, cfg)


def _detections(
    g: Graph, boxes: Value, labels: Value, scores: Value, index: Value
) -> dict[str, tuple[Value, str, list[int | str]]]:
    return {
        'boxes': (g.Gather(boxes, index), 'float32', ['n', 4]),
        'labels': (g.Gather(labels, index), 'int64', ['n']),
        'scores': (scores, 'float32', ['n']),
    }
