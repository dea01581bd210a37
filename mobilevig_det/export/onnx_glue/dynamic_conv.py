"""RTMDet-Ins's masks: a small network of its own for each detection."""

import numpy as np

from .boxes import grid_points
from .graph import Graph, Value


def dynamic_masks(
    g: Graph, head, mask_feat: Value, kernels: Value, priors: Value
) -> Value:
    """``RTMDetInsHead._mask_predict_by_feat_single``.

    Args:
        g (Graph): Where it is written.
        head (RTMDetInsHead): Knows how many channels there are.
        mask_feat (Value): Prototypes (1, C, h, w), common to all.
        kernels (Value): Weights of all layers, then biases of all; (n, params).
        priors (Value): x, y, stride, stride of each detection's prior; (n, 4).

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

    # A 1 x 1 convolution is a product of matrices, one for each detection.
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
