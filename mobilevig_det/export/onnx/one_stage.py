"""RetinaNet and RTMDet-Ins in ONNX, from the image to boxes and masks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mmdet.models import BaseDetector

from .boxes import decode_delta, decode_distance, grid_anchors, grid_points
from .graph import Graph, Value
from .nms import batched_nms, flatten_map, keep_if, top_k
from .tracing import finish_detector, start_detector

if TYPE_CHECKING:
    import onnx


def build_retinanet(detector: BaseDetector) -> 'onnx.ModelProto':
    """Build a RetinaNet; see docs/export.md, "The file", for its inputs and outputs.

    Args:
        detector (BaseDetector): The detector, fused and in eval mode, of which
            :func:`..supported.check_supported` approves.
    """
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


def build_rtmdet_ins(detector: BaseDetector) -> 'onnx.ModelProto':
    """Build an RTMDet-Ins, like :func:`build_retinanet`."""
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
    """``filter_scores_and_topk`` of each level, then all levels together.

    Args:
        g (Graph): The graph to append to.
        head (BaseDenseHead): The head, with its ``test_cfg``.
        cls_scores (list[Value]): Classification map of each level.
        rows (Sequence[tuple[Value, ...]]): For each level, tensors with one row a
            prior.

    Returns:
        tuple[Value, Value, list[Value]]: Scores, labels and rows of the best
        ``nms_pre`` pairs of a prior and a class of each level. Scores under the
        threshold are set to :data:`.nms.REMOVED`.
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
