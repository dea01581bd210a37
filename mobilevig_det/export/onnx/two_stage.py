"""Faster R-CNN and Mask R-CNN in ONNX, from the image to boxes and masks.

The functions follow MMDetection's: RPN, RoI extractor, box head, mask head.
"""

from typing import TYPE_CHECKING

import torch
from mmdet.models import BaseDetector

from .boxes import decode_delta, grid_anchors
from .graph import INT64, Graph, Value
from .nms import batched_nms, flatten_map, length, multiclass_nms, top_k
from .tracing import finish_detector, start_detector, to_onnx

if TYPE_CHECKING:
    import onnx

EXAMPLE_ROIS = 3  # to trace with; a file takes any number


def build_two_stage(detector: BaseDetector) -> 'onnx.ModelProto':
    """Build a detector; see docs/export.md, "The file", for its inputs and outputs.

    Args:
        detector (BaseDetector): A Mask R-CNN or Faster R-CNN, fused and in eval mode,
            of which :func:`..supported.check_supported` approves.

    Returns:
        onnx.ModelProto: The model, in standard operators.
    """
    rpn, roi_head = detector.rpn_head, detector.roi_head
    g, size, maps, outs = start_detector(detector, rpn)
    levels = rpn.prior_generator.num_levels
    proposals = rpn_proposals(g, rpn, outs[:levels], outs[levels:], size)
    boxes, scores, labels = predict_bbox(g, roi_head, maps, proposals, size)
    masks = None
    if roi_head.with_mask:
        masks = predict_mask(g, roi_head, maps, boxes, labels)
    return finish_detector(g, boxes, labels, scores, masks)


def rpn_proposals(
    g: Graph, head, cls_scores: list[Value], bbox_preds: list[Value], size: Value
) -> Value:
    """``RPNHead.predict_by_feat``: proposals (N, 4)."""
    cfg = head.test_cfg
    found = []
    for level, (cls_score, bbox_pred) in enumerate(zip(cls_scores, bbox_preds)):
        scores = g.Reshape(g.Sigmoid(flatten_map(g, cls_score, 1)), [-1])
        deltas = flatten_map(g, bbox_pred, 4)
        priors = grid_anchors(g, head.prior_generator, level, bbox_pred)
        if cfg.get('nms_pre', -1) > 0:
            scores, best = top_k(g, scores, cfg.nms_pre)
            deltas, priors = g.Gather(deltas, best), g.Gather(priors, best)
        found.append((scores, deltas, priors, g.Expand(level, length(g, scores))))
    scores, deltas, priors, level_ids = (g.Concat(*x, axis=0) for x in zip(*found))
    boxes = decode_delta(g, head.bbox_coder, priors, deltas, size)
    index, _ = batched_nms(g, boxes, scores, level_ids, len(found), cfg)
    return g.Gather(boxes, index)


def roi_features(g: Graph, extractor, maps: list[Value], rois: Value) -> Value:
    """``SingleRoIExtractor``: features of RoIs (N, 4), from the level of their size.

    Returns:
        Value: Features (N, C, bins along y, bins along x).
    """
    layers = list(extractor.roi_layers)
    if len(layers) == 1:
        return _roi_align(g, layers[0], maps[0], rois)
    levels = map_roi_levels(g, extractor, rois)
    parts, indices = [], []
    for i, layer in enumerate(layers):
        index = g.Squeeze(g.NonZero(g.Equal(levels, i)), [0])
        indices.append(index)
        parts.append(_roi_align(g, layer, maps[i], g.Gather(rois, index)))
    # Restore the order of the RoIs: one Gather by the inverse permutation.
    order = g.Concat(*indices, axis=0)
    count = g.Squeeze(length(g, order), [0])
    inverse = g.ScatterElements(order, order, g.Range(0, count, 1))
    return g.Gather(g.Concat(*parts, axis=0), inverse)


def map_roi_levels(g: Graph, extractor, rois: Value) -> Value:
    """``SingleRoIExtractor.map_roi_levels``: level of each RoI, int64 (N,)."""
    x1, y1, x2, y2 = g.Split(rois, axis=1, num_outputs=4, outputs=4)
    scale = g.Squeeze(g.Sqrt((x2 - x1) * (y2 - y1)), [1])
    ratio = scale / float(extractor.finest_scale) + 1e-6
    # The number of powers of two up to the ratio is floor(log2(ratio)), clamped,
    # without the rounding of a logarithm.
    powers = [2.0**i for i in range(1, len(extractor.roi_layers))]
    reached = g.GreaterOrEqual(g.Unsqueeze(ratio, [1]), [powers])
    return g.ReduceSum(g.Cast(reached, to=INT64), [1], keepdims=0)


def _roi_align(g: Graph, layer, feature: Value, rois: Value) -> Value:
    height, width = layer.output_size
    return g.RoiAlign(
        feature,
        rois,
        g.Expand(0, length(g, rois)),
        mode='avg',
        output_height=int(height),
        output_width=int(width),
        spatial_scale=float(layer.spatial_scale),
        # Written even if it is 0: OpenVINO reads a missing one as 1.
        sampling_ratio=int(layer.sampling_ratio),
        coordinate_transformation_mode=(
            'half_pixel' if layer.aligned else 'output_half_pixel'
        ),
    )


def _run_roi_head(
    g: Graph, head, name: str, extractor, maps: list[Value], rois: Value
) -> list[Value]:
    """Return the outputs of a box or mask head for RoIs (N, 4)."""
    features = roi_features(g, extractor, maps[: extractor.num_inputs], rois)
    bins = extractor.roi_layers[0].output_size
    example = torch.rand(EXAMPLE_ROIS, extractor.out_channels, *bins)
    return g.inline(to_onnx(head, example, name, [0]), features)


def predict_bbox(
    g: Graph, roi_head, maps: list[Value], proposals: Value, size: Value
) -> tuple[Value, Value, Value]:
    """``StandardRoIHead.predict_bbox``: boxes (n, 4), scores (n,), labels (n,)."""
    head = roi_head.bbox_head
    cls_score, bbox_pred = _run_roi_head(
        g, head, 'bbox_head', roi_head.bbox_roi_extractor, maps, proposals
    )
    scores = g.Slice(g.Softmax(cls_score, axis=1), [0], [head.num_classes], [1])
    # (N, C, 4), or (N, 1, 4) if the classes share a box
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
    """``StandardRoIHead.predict_mask`` without pasting: probabilities (n, h, w)."""
    head = roi_head.mask_head
    (preds,) = _run_roi_head(
        g, head, 'mask_head', roi_head.mask_roi_extractor, maps, boxes
    )
    if head.class_agnostic:
        return g.Sigmoid(g.Squeeze(preds, [1]))
    row = g.Range(0, g.Squeeze(length(g, labels), [0]), 1)
    where = g.Concat(g.Unsqueeze(row, [1]), g.Unsqueeze(labels, [1]), axis=1)
    return g.Sigmoid(g.GatherND(preds, where))
