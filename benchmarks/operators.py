"""mmcv's operators: ours beside the compiled ones, where there are such."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial

from mobilevig_det.mmcv_ops import mmcv_ext

import torch
from mmcv.ops import batched_nms, roi_align
from torch import Tensor

from .turns import in_turns

COMPILED = 'compiled mmcv'
# Stride of a level of the pyramid, and the sizes of RoIs that MMDetection gives
# to it, in pixels of the image.
LEVELS = {4: (30, 112), 8: (112, 224), 16: (224, 448), 32: (448, 800)}
SHARES = {4: 0.5, 8: 0.28, 16: 0.15, 32: 0.07}


def boxes(number: int, sides: tuple[int, int], height: int, width: int) -> Tensor:
    """Boxes of about square shape, within the image; (N, 4)."""
    sizes = torch.empty(number, 1).uniform_(*sides)
    sizes = sizes * torch.empty(number, 2).uniform_(0.7, 1.4)
    centres = torch.rand(number, 2) * torch.tensor([width, height])
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    return corners.clamp(min=0).minimum(torch.tensor([width, height] * 2))


def make_pyramid(
    number: int, bins: int, channels: int, size: tuple[int, int], backward: bool
) -> Callable:
    """RoIAlign of so many RoIs over the levels of a pyramid."""
    height, width = size
    maps, rois = [], []
    for stride, sides in LEVELS.items():
        count = max(round(number * SHARES[stride]), 1)
        least, most = (min(side, height) for side in sides)
        images = torch.zeros(count, 1)
        found = boxes(count, (least, most), height, width)
        rois.append(torch.cat([images, found], 1))
        shape = 1, channels, height // stride, width // stride
        maps.append(torch.randn(shape, requires_grad=backward))
    outs = []

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
    """The targets of 128 RoIs on an image's 10 masks."""
    height, width = size
    masks = (torch.rand(10, 1, height, width) > 0.5).float()
    images = torch.randint(10, (128, 1)).float()
    rois = torch.cat([images, boxes(128, (40, 400), height, width)], 1)
    return lambda: roi_align(masks, rois, 28, 1.0, 0, 'avg', True)


def make_nms(numbers: list[int], threshold: float, size: tuple[int, int]) -> Callable:
    """NMS of groups (levels or classes) of so many boxes."""
    parts = [
        boxes(n, (24 * 2**i, 48 * 2**i), *size) for i, n in enumerate(numbers)
    ]  # fmt: skip
    groups = torch.cat([torch.full((n,), i) for i, n in enumerate(numbers)])
    scores = torch.rand(len(groups))
    config = dict(type='nms', iou_threshold=threshold)
    return lambda: batched_nms(torch.cat(parts), scores, groups, config)


CASES: dict[str, Callable[[], Callable]] = {
    '1,000 proposals, 7x7, forward': lambda: make_pyramid(
        1000, 7, 256, (800, 1216), False
    ),
    '1,000 proposals, 7x7, backward': lambda: make_pyramid(
        1000, 7, 256, (800, 1216), True
    ),
    '100 detections, 14x14, forward': lambda: make_pyramid(
        100, 14, 256, (800, 1216), False
    ),
    'mask targets of 128 RoIs, 28x28': lambda: make_mask_targets((800, 1216)),
    "the demo's 64 RoIs, 7x7, forward": lambda: make_pyramid(
        64, 7, 64, (128, 128), False
    ),
    "the demo's 64 RoIs, 7x7, backward": lambda: make_pyramid(
        64, 7, 64, (128, 128), True
    ),
    'NMS of 8,740 boxes of five levels': lambda: make_nms(
        [2000, 2000, 2000, 2000, 740], 0.7, (800, 1216)
    ),
    'NMS of 4,740 boxes of five levels': lambda: make_nms(
        [1000, 1000, 1000, 1000, 740], 0.7, (800, 1216)
    ),
    'NMS of 1,000 boxes of one class': lambda: make_nms([1000], 0.5, (800, 1216)),
    'NMS of 100 boxes of one class': lambda: make_nms([100], 0.5, (800, 1216)),
}


def make_operator(args: Namespace, case: str, name: str):
    if name != COMPILED:
        mmcv_ext.use_on_cpus()
    torch.manual_seed(0)
    return {}, CASES[case]()


def operator_rows(args: Namespace) -> Iterator[dict]:
    """Each operator at the sizes of an 800x1216 image and of the demo."""
    names = [COMPILED, 'ours'] if mmcv_ext.is_compiled() else ['ours']
    for case in CASES:
        rows = [
            dict(part='operators', size=case, name=name, base=COMPILED)
            for name in names
        ]
        makes = [partial(make_operator, case=case, name=name) for name in names]
        yield from in_turns(rows, makes, args.rounds, args)
