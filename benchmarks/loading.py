"""What comes before the network: images and masks from their files to the model,
and the mask targets; MMDetection's beside ours."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from mobilevig_det.datasets import loading, make_shapes  # loading registers
from mobilevig_det.datasets.compact_masks import CompactBitmapMasks
from mobilevig_det.mmcv_ops import mmcv_ext

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures.mask import BitmapMasks, mask_target
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict

from .operators import COMPILED, boxes
from .turns import in_turns

IMAGES = 64
STOCK, OURS = 'MMDetection', 'ours'
ANNOTATIONS = {STOCK: 'LoadAnnotations', OURS: loading.LoadCompactAnnotations.__name__}


def make_loader(args: Namespace, name: str, data: dict):
    """A worker's work: read, transform by the recipe, pickle; and the reading of
    the pickle, without the pipe between."""
    register_all_modules()
    cv2.setNumThreads(0)  # as in MMEngine's workers
    torch.set_num_threads(1)  # as in torch's
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type=ANNOTATIONS[name], with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    dataset = DATASETS.build(dict(type='CocoDataset', pipeline=pipeline, **data))
    number = min(len(dataset), IMAGES)

    def run() -> int:
        np.random.seed(0)  # the same flips
        sizes = []
        for i in range(number):
            pickled = ForkingPickler.dumps(dataset[i])
            ForkingPickler.loads(pickled)
            sizes.append(len(pickled))
        return sum(sizes)

    return dict(images=number, pipe_bytes=run() / number), run


def loader_rows(args: Namespace) -> Iterator[dict]:
    """Images of COCO's training set in COCO_ROOT, or generated ones."""
    root = Path(os.environ.get('COCO_ROOT', 'data/coco'))
    annotations = 'annotations/instances_train2017.json'
    with tempfile.TemporaryDirectory() as folder:
        data = dict(ann_file=annotations, data_prefix=dict(img='train2017/'))
        size = '1333x800, COCO'
        if not (root / annotations).exists():
            root = Path(folder)
            make_shapes(root, num_train=IMAGES, num_val=1, size=640)
            data = dict(
                ann_file='annotations/instances_train.json',
                data_prefix=dict(img='train/'),
                metainfo=dict(classes=('circle', 'square', 'triangle')),
            )
            size = '1333x800, shapes of 640x640'
        data['data_root'] = str(root)
        rows = [
            dict(part='loader', size=size, name=name, base=STOCK)
            for name in ANNOTATIONS
        ]
        makes = [partial(make_loader, name=name, data=data) for name in ANNOTATIONS]
        yield from in_turns(rows, makes, args.rounds, args)


def make_targets(args: Namespace, name: str, size: tuple[int, int]):
    """The mask targets of 128 positive RoIs on an image's 10 masks."""
    if not name.endswith(COMPILED):
        mmcv_ext.use_on_cpus()
    torch.manual_seed(0)
    places = boxes(10, (40, 400), *size)
    masks = np.zeros((10, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, places.int().tolist()):
        centre, axes = (
            ((x1 + x2) // 2, (y1 + y2) // 2),
            ((x2 - x1) // 2, (y2 - y1) // 2),
        )
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    make: Callable = BitmapMasks
    if name.startswith(OURS):
        make = CompactBitmapMasks.from_bitmaps
    truth = make(list(masks), *size)
    assigned = torch.randint(10, (128,), device=args.device)
    moved = places.to(args.device)[assigned]
    moved = (moved + torch.randn_like(moved) * 8).clamp(min=0)
    rois = torch.cat([moved[:, :2], moved[:, 2:].maximum(moved[:, :2] + 1)], 1)
    config = ConfigDict(mask_size=28)
    return {}, lambda: mask_target([rois.clone()], [assigned], [truth], config)


def target_rows(args: Namespace) -> Iterator[dict]:
    """Both with the same RoIAlign: mmcv's, where it is compiled, and ours."""
    operators = [COMPILED, 'our operators'] if mmcv_ext.is_compiled() else ['']
    size = 800, 1216
    names = [
        f'{which}, {operator}'.rstrip(', ')
        for operator in operators
        for which in (STOCK, OURS)
    ]
    rows = [
        dict(
            part='mask targets',
            size=f'128 RoIs, 10 masks, {size[0]}x{size[1]}',
            name=name,
            base=names[0],
            images=1,
        )
        for name in names
    ]
    makes = [partial(make_targets, name=name, size=size) for name in names]
    yield from in_turns(rows, makes, args.rounds, args)
