"""Our implementation of mmcv's operators, compared with the compiled one."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

from mobilevig_det.mmcv_ops import mmcv_ext

import cv2
import numpy as np
import torch
from mmcv.ops import batched_nms, roi_align
from torch import Tensor

from .interleaved import interleaved

COMPILED = 'compiled mmcv'
IMAGE, DEMO_IMAGE = (800, 1216), (128, 128)
# By the strides of the levels: the sizes in pixels of the RoIs that MMDetection assigns
# to a level, and the fraction of all RoIs on that level.
LEVELS = {4: (30, 112), 8: (112, 224), 16: (224, 448), 32: (448, 800)}
SHARES = {4: 0.5, 8: 0.28, 16: 0.15, 32: 0.07}


def some_boxes(number: int, sides: tuple[int, int], height: int, width: int) -> Tensor:
    """Sample nearly square boxes, of shape (N, 4), within an image."""
    sizes = torch.empty(number, 1).uniform_(*sides)
    sizes = sizes * torch.empty(number, 2).uniform_(0.7, 1.4)
    centres = torch.rand(number, 2) * torch.tensor([width, height])
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    return corners.clamp(min=0).minimum(torch.tensor([width, height] * 2))


def draw_ellipses(boxes: Tensor, height: int, width: int) -> np.ndarray:
    """Draw an ellipse in each box: uint8 masks of shape (N, H, W)."""
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist()):
        centre, sides = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)
        cv2.ellipse(mask, (centre, sides, 0), 1, -1)
    return masks


def make_pyramid(
    number: int, bins: int, channels: int, size: tuple[int, int], backward: bool
) -> Callable:
    """Make RoIAlign of ``number`` RoIs, spread over the levels of a feature pyramid."""
    height, width = size
    maps, rois = [], []
    for stride, sides in LEVELS.items():
        count = max(round(number * SHARES[stride]), 1)
        least, most = (min(side, height) for side in sides)
        images = torch.zeros(count, 1)
        found = some_boxes(count, (least, most), height, width)
        rois.append(torch.cat([images, found], 1))
        shape = 1, channels, height // stride, width // stride
        maps.append(torch.randn(shape, requires_grad=backward))

    def forward():
        return [
            roi_align(x, r, bins, 1 / stride, 0, 'avg', True)
            for x, r, stride in zip(maps, rois, LEVELS)
        ]

    if not backward:
        return forward
    outs = forward()
    grads = [torch.randn_like(out) for out in outs]
    return lambda: torch.autograd.grad(outs, maps, grads, retain_graph=True)


def make_mask_targets(size: tuple[int, int]) -> Callable:
    """Make RoIAlign of 128 RoIs on the 10 masks of an image."""
    height, width = size
    masks = (torch.rand(10, 1, height, width) > 0.5).float()
    images = torch.randint(10, (128, 1)).float()
    rois = torch.cat([images, some_boxes(128, (40, 400), height, width)], 1)
    return lambda: roi_align(masks, rois, 28, 1.0, 0, 'avg', True)


def make_nms(numbers: list[int], threshold: float) -> Callable:
    """Make NMS of groups (levels or classes) with ``numbers`` boxes."""
    parts = [
        some_boxes(n, (24 * 2**i, 48 * 2**i), *IMAGE) for i, n in enumerate(numbers)
    ]
    groups = torch.cat([torch.full((n,), i) for i, n in enumerate(numbers)])
    scores = torch.rand(len(groups))
    config = dict(type='nms', iou_threshold=threshold)
    return lambda: batched_nms(torch.cat(parts), scores, groups, config)


# Name of each case, the function that makes it, and the arguments of the function.
CASES: dict[str, tuple] = {
    '1,000 proposals, 7x7, forward': (make_pyramid, 1000, 7, 256, IMAGE, False),
    '1,000 proposals, 7x7, backward': (make_pyramid, 1000, 7, 256, IMAGE, True),
    '100 detections, 14x14, forward': (make_pyramid, 100, 14, 256, IMAGE, False),
    'mask targets of 128 RoIs, 28x28': (make_mask_targets, IMAGE),
    "the demo's 64 RoIs, 7x7, forward": (make_pyramid, 64, 7, 64, DEMO_IMAGE, False),
    "the demo's 64 RoIs, 7x7, backward": (make_pyramid, 64, 7, 64, DEMO_IMAGE, True),
    'NMS of 8,740 boxes of five levels': (make_nms, [2000] * 4 + [740], 0.7),
    'NMS of 4,740 boxes of five levels': (make_nms, [1000] * 4 + [740], 0.7),
    'NMS of 1,000 boxes of one class': (make_nms, [1000], 0.5),
    'NMS of 100 boxes of one class': (make_nms, [100], 0.5),
}


def _make_operator(args: Namespace, case: str, compiled: bool):
    if not compiled:
        mmcv_ext.use_on_cpus()
    torch.manual_seed(0)
    make, *arguments = CASES[case]
    return {}, make(*arguments)


def operator_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of each operator at the sizes of an 800x1216 image and of the demo."""
    for case in CASES:
        make = partial(_make_operator, case=case)
        makes = {'ours': partial(make, compiled=False)}
        if mmcv_ext.is_compiled():
            makes = {COMPILED: partial(make, compiled=True), **makes}
        yield from interleaved(args, 'operators', case, makes, base=COMPILED)
