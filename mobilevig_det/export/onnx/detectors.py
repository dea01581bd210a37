"""Detectors in ONNX, from the image to boxes and masks.

The functions correspond to those of MMDetection that their docstrings name. The inputs
and outputs of a file are described in docs/export.md, "The file".
"""

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from mmdet.models import BaseDetector, FasterRCNN, MaskRCNN, RetinaNet, RTMDet

from .graph import INT64, Graph, Value
from .layers import finish_detector, start_detector, to_onnx
from .post_processing import (
    batched_nms,
    decode_delta,
    decode_distance,
    flatten_map,
    grid_anchors,
    grid_points,
    keep_if,
    length,
    multiclass_nms,
    top_k,
)

EXAMPLE_ROIS = 3  # RoIs for tracing; a file accepts any number.


def build_two_stage(detector: BaseDetector) -> onnx.ModelProto:
    """Build a Faster R-CNN or Mask R-CNN, fused and in eval mode."""
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
    """``SingleRoIExtractor``: features of RoIs, from the level that fits their size.

    Args:
        g (Graph): The graph to append to.
        extractor (SingleRoIExtractor): The RoI extractor.
        maps (list[Value]): Feature map of each level, (1, C, h, w).
        rois (Value): RoIs (N, 4).

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
        # Written even if it is 0, because OpenVINO's default is 1.
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


def build_retinanet(detector: BaseDetector) -> onnx.ModelProto:
    """Build a RetinaNet, fused and in eval mode."""
    head = detector.bbox_head
    g, size, _, outs = start_detector(detector, head)
    levels = head.prior_generator.num_levels
    cls_scores, bbox_preds = outs[:levels], outs[levels:]
    rows = [
        (flatten_map(g, pred, 4), grid_anchors(g, head.prior_generator, i, pred))
        for i, pred in enumerate(bbox_preds)
    ]
    scores, labels, (deltas, priors) = _select_candidates(g, head, cls_scores, rows)
    boxes = decode_delta(g, head.bbox_coder, priors, deltas, size)
    index, scores = batched_nms(
        g, boxes, scores, labels, head.num_classes, head.test_cfg
    )
    return finish_detector(g, g.Gather(boxes, index), g.Gather(labels, index), scores)


def build_rtmdet_ins(detector: BaseDetector) -> onnx.ModelProto:
    """Build an RTMDet-Ins, fused and in eval mode."""
    head = detector.bbox_head
    g, size, _, outs = start_detector(detector, head)
    levels = head.prior_generator.num_levels
    cls_scores, bbox_preds = outs[:levels], outs[levels : 2 * levels]
    kernel_preds, mask_feat = outs[2 * levels : 3 * levels], outs[-1]
    rows = [
        (
            flatten_map(g, bbox_pred, 4),
            grid_points(g, head.prior_generator, i, bbox_pred),
            flatten_map(g, kernel_pred, head.num_gen_params),
        )
        for i, (bbox_pred, kernel_pred) in enumerate(zip(bbox_preds, kernel_preds))
    ]
    scores, labels, (distances, priors, kernels) = _select_candidates(
        g, head, cls_scores, rows
    )
    points = g.Gather(priors, [0, 1], axis=1)
    boxes = decode_distance(g, points, distances, size)
    index, scores = batched_nms(
        g, boxes, scores, labels, head.num_classes, head.test_cfg
    )
    boxes, labels, priors, kernels = (
        g.Gather(x, index) for x in (boxes, labels, priors, kernels)
    )
    masks = g.Sigmoid(_predict_masks(g, head, mask_feat, kernels, priors))
    return finish_detector(g, boxes, labels, scores, masks)


def _select_candidates(
    g: Graph, head, cls_scores: list[Value], rows: Sequence[tuple[Value, ...]]
) -> tuple[Value, Value, list[Value]]:
    """``filter_scores_and_topk`` for each level, with the results concatenated.

    Args:
        g (Graph): The graph to append to.
        head (BaseDenseHead): The head, with its ``test_cfg``.
        cls_scores (list[Value]): Classification map of each level.
        rows (Sequence[tuple[Value, ...]]): For each level, tensors with one row for
            each prior.

    Returns:
        tuple[Value, Value, list[Value]]: Scores, labels and rows of the ``nms_pre``
        best pairs of a prior and a class in each level. Scores below the threshold are
        set to :data:`.post_processing.REMOVED`.
    """
    found = []
    number = head.cls_out_channels
    for cls_score, tensors in zip(cls_scores, rows):
        scores = g.Reshape(g.Sigmoid(flatten_map(g, cls_score, number)), [-1])
        scores, best = top_k(g, scores, head.test_cfg.nms_pre)
        prior = g.Div(best, number)
        rest = [g.Gather(tensor, prior) for tensor in tensors]
        found.append((scores, g.Mod(best, number), *rest))
    scores, labels, *rest = (g.Concat(*parts, axis=0) for parts in zip(*found))
    threshold = float(head.test_cfg.get('score_thr', 0))
    return keep_if(g, scores > threshold, scores), labels, rest


def _predict_masks(
    g: Graph, head, mask_feat: Value, kernels: Value, priors: Value
) -> Value:
    """``RTMDetInsHead._mask_predict_by_feat_single``: dynamic convolutions.

    Args:
        g (Graph): The graph to append to.
        head (RTMDetInsHead): The head, which has the numbers of channels.
        mask_feat (Value): Mask prototypes (1, C, h, w), common to all detections.
        kernels (Value): Weights of all layers, then biases of all layers, of each
            detection's own small network, (n, parameters).
        priors (Value): x, y, stride, stride of each detection's prior, (n, 4).

    Returns:
        Value: Logits (n, h, w).
    """
    points = g.Gather(
        grid_points(g, head.prior_generator, 0, mask_feat), [0, 1], axis=1
    )
    centres, strides = g.Split(priors, axis=1, num_outputs=2, outputs=2)
    distance = g.Unsqueeze(centres, [2]) - g.Unsqueeze(
        g.Transpose(points, perm=[1, 0]), [0]
    )
    stride = g.Gather(g.Unsqueeze(strides, [2]), [0], axis=1)
    distance = distance / (stride * 8.0)  # (n, 2, h * w)

    prototypes = g.Reshape(mask_feat, [1, head.num_prototypes, -1])
    number = g.Shape(kernels, start=0, end=1)
    prototypes = g.Expand(prototypes, g.Concat(number, [1, 1], axis=0))
    x = g.Concat(distance, prototypes, axis=1)  # (n, 2 + C, h * w)

    # Each 1 x 1 convolution is a batched matrix product.
    ends = np.cumsum([*head.weight_nums, *head.bias_nums]).tolist()
    parts = [
        g.Slice(kernels, [begin], [end], [1]) for begin, end in zip([0, *ends], ends)
    ]
    layers = len(head.weight_nums)
    for i, (weight, bias) in enumerate(zip(parts[:layers], parts[layers:])):
        channels = head.bias_nums[i]
        width = head.weight_nums[i] // channels
        weight = g.Reshape(weight, g.Concat(number, [channels, width], axis=0))
        x = g.MatMul(weight, x) + g.Unsqueeze(bias, [2])
        if i < layers - 1:
            x = g.Relu(x)
    sides = g.Shape(mask_feat, start=2, end=4)
    return g.Reshape(x, g.Concat(number, sides, axis=0))


BUILDERS = {
    MaskRCNN: build_two_stage,
    FasterRCNN: build_two_stage,
    RetinaNet: build_retinanet,
    RTMDet: build_rtmdet_ins,
}
