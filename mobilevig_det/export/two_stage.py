"""Faster R-CNN and Mask R-CNN, whole, in ONNX."""

from typing import TYPE_CHECKING

import torch
from mmdet.models import BaseDetector

from .dense import DenseHead, to_onnx
from .onnx_glue.boxes import decode_delta, grid_anchors
from .onnx_glue.graph import Graph, Value
from .onnx_glue.graph_steps import STEPS
from .onnx_glue.roi_extractor import roi_features
from .onnx_glue.selection import (
    batched_nms,
    keep_if,
    larger_than,
    length,
    multiclass_nms,
    rows,
    top_k,
)

if TYPE_CHECKING:
    import onnx

# What the layers are traced with; every axis that may vary takes any size.
IMAGE = (1, 3, 160, 224)
ROIS = 3


def build_two_stage(detector: BaseDetector) -> 'onnx.ModelProto':
    """The detector of docs/export.md, "The file".

    Args:
        detector (BaseDetector): A fused Mask R-CNN or Faster R-CNN, which
            :func:`..covered.check_covered` has let through.

    Returns:
        onnx.ModelProto: In standard operators.
    """
    g = Graph()
    image = g.input('image', 'float32', [1, 3, 'height', 'width'])
    size = g.input('size', 'int64', [2])

    dense = to_onnx(
        DenseHead(detector, detector.rpn_head), torch.rand(IMAGE), 'rpn', [2, 3]
    )
    outs = g.call(dense, image, functions=STEPS)
    levels = detector.rpn_head.prior_generator.num_levels
    maps = outs[: -2 * levels]
    proposals = rpn_proposals(
        g, detector.rpn_head, outs[-2 * levels : -levels], outs[-levels:], size
    )
    roi_head = detector.roi_head
    boxes, scores, labels = predict_bbox(g, roi_head, maps, proposals, size)
    outputs: dict[str, tuple[Value, str, list[int | str]]] = {
        'boxes': (boxes, 'float32', ['n', 4]),
        'labels': (labels, 'int64', ['n']),
        'scores': (scores, 'float32', ['n']),
    }
    if roi_head.with_mask:
        masks = predict_mask(g, roi_head, maps, boxes, labels)
        outputs['masks'] = (masks, 'float32', ['n', 'mask_height', 'mask_width'])
    return g.model(outputs)


def rpn_proposals(
    g: Graph, head, cls_scores: list[Value], bbox_preds: list[Value], size: Value
) -> Value:
    """``RPNHead.predict_by_feat``: the proposals (N, 4)."""
    cfg = head.test_cfg
    found = []
    for level, (cls_score, bbox_pred) in enumerate(zip(cls_scores, bbox_preds)):
        scores = g.Reshape(g.Sigmoid(rows(g, cls_score, 1)), [-1])
        deltas = rows(g, bbox_pred, 4)
        priors = grid_anchors(g, head.prior_generator, level, bbox_pred)
        if cfg.get('nms_pre', -1) > 0:
            scores, best = top_k(g, scores, cfg.nms_pre)
            deltas, priors = g.Gather(deltas, best), g.Gather(priors, best)
        found.append((scores, deltas, priors, g.Expand(level, length(g, scores))))
    scores, deltas, priors, level_ids = (g.Concat(*x, axis=0) for x in zip(*found))
    boxes = decode_delta(g, head.bbox_coder, priors, deltas, size)
    if cfg.get('min_bbox_size', -1) >= 0:
        scores = keep_if(g, larger_than(g, boxes, cfg.min_bbox_size), scores)
    index, _ = batched_nms(g, boxes, scores, level_ids, len(found), cfg)
    return g.Gather(boxes, index)


def predict_bbox(
    g: Graph, roi_head, maps: list[Value], proposals: Value, size: Value
) -> tuple[Value, Value, Value]:
    """``StandardRoIHead.predict_bbox``: boxes (n, 4), scores (n,), labels (n,)."""
    head, extractor = roi_head.bbox_head, roi_head.bbox_roi_extractor
    features = roi_features(g, extractor, maps[: extractor.num_inputs], proposals)
    bins = extractor.roi_layers[0].output_size
    example = torch.rand(ROIS, extractor.out_channels, *bins)
    cls_score, bbox_pred = g.call(to_onnx(head, example, 'bbox_head', [0]), features)
    scores = g.Slice(g.Softmax(cls_score, axis=1), [0], [head.num_classes], [1])
    # (N, C or 1, 4), of priors (N, 1, 4)
    boxes = decode_delta(
        g,
        head.bbox_coder,
        g.Unsqueeze(proposals, [1]),
        g.Reshape(
            bbox_pred, [-1, 1 if head.reg_class_agnostic else head.num_classes, 4]
        ),
        size,
    )
    return multiclass_nms(g, boxes, scores, roi_head.test_cfg)


def predict_mask(
    g: Graph, roi_head, maps: list[Value], boxes: Value, labels: Value
) -> Value:
    """``StandardRoIHead.predict_mask`` before pasting: probabilities (n, h, w)."""
    head, extractor = roi_head.mask_head, roi_head.mask_roi_extractor
    features = roi_features(g, extractor, maps[: extractor.num_inputs], boxes)
    bins = extractor.roi_layers[0].output_size
    example = torch.rand(ROIS, extractor.out_channels, *bins)
    (preds,) = g.call(to_onnx(head, example, 'mask_head', [0]), features)
    if head.class_agnostic:
        return g.Sigmoid(g.Squeeze(preds, [1]))
    row = g.Range(0, g.Squeeze(length(g, labels), [0]), 1)
    where = g.Concat(g.Unsqueeze(row, [1]), g.Unsqueeze(labels, [1]), axis=1)
    return g.Sigmoid(g.GatherND(preds, where))
