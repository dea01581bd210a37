"""Overhead of training outside the network: ours compared with MMDetection's.

The parts are data loading, mask targets, and the history of logged values.
"""

import pickle
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

from mobilevig_det.config import load_config
from mobilevig_det.datasets import make_shapes
from mobilevig_det.datasets.loading import CompactBitmapMasks, LoadCompactAnnotations
from mobilevig_det.engine import BoundedRuntimeInfoHook
from mobilevig_det.mmcv_ops import mmcv_ext

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures.mask import BitmapMasks, mask_target
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

from .interleaved import interleaved
from .operators import COMPILED, draw_ellipses, some_boxes

STOCK, OURS = 'MMDetection', 'ours'
LOADED_IMAGES = 64
ANNOTATIONS = {STOCK: 'LoadAnnotations', OURS: LoadCompactAnnotations.__name__}
STOCK_HOOK = "MMEngine's"
HOOKS = {STOCK_HOOK: RuntimeInfoHook, OURS: BoundedRuntimeInfoHook}
LOGGED_ITERATIONS = (100, 170_000)
LOSSES = 9  # losses of Mask R-CNN, with their sum and the accuracy


def make_loader(args: Namespace, name: str, dataset: dict):
    """Make the loading of images: read, transform and pickle them, then unpickle."""
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
    images = DATASETS.build(dict(dataset, pipeline=pipeline))
    number = min(len(images), LOADED_IMAGES)

    def run() -> int:
        np.random.seed(0)  # the same flips for both
        sizes = []
        for i in range(number):
            pickled = ForkingPickler.dumps(images[i])
            ForkingPickler.loads(pickled)
            sizes.append(len(pickled))
        return sum(sizes)

    note = f'{name}: {run() / number / 1e6:.2f} MB per image between the processes.'
    return dict(images=number, note=note), run


def loader_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows for COCO's training images in COCO_ROOT, or else generated images."""
    size, dataset = '1333x800, COCO', _training_set('mobilevig_m_fpn_1x')
    with tempfile.TemporaryDirectory() as folder:
        if not Path(dataset.data_root, dataset.ann_file).exists():
            size = '1333x800, shapes of 640x640'
            dataset = _training_set('mobilevig_ti_fpn_shapes')
            dataset.data_root = folder
            make_shapes(folder, num_train=LOADED_IMAGES, num_val=1, size=640)
        makes = {
            name: partial(make_loader, name=name, dataset=dataset)
            for name in ANNOTATIONS
        }
        yield from interleaved(args, 'loader', size, makes, base=STOCK)


def _training_set(config: str) -> ConfigDict:
    return load_config(config).train_dataloader.dataset


def make_targets(args: Namespace, name: str, size: tuple[int, int]):
    """Make the mask targets of 128 positive RoIs on the 10 masks of an image."""
    if not name.endswith(COMPILED):
        mmcv_ext.use_on_cpus()
    torch.manual_seed(0)
    objects = some_boxes(10, (40, 400), *size)
    make: Callable = BitmapMasks
    if name.startswith(OURS):
        make = CompactBitmapMasks.from_bitmaps
    truth = make(list(draw_ellipses(objects, *size)), *size)
    assigned = torch.randint(10, (128,), device=args.device)
    moved = objects.to(args.device)[assigned]
    moved = (moved + torch.randn_like(moved) * 8).clamp(min=0)
    rois = torch.cat([moved[:, :2], moved[:, 2:].maximum(moved[:, :2] + 1)], 1)
    config = ConfigDict(mask_size=28)
    return {}, lambda: mask_target([rois.clone()], [assigned], [truth], config)


def target_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of mask targets with mmcv's compiled RoIAlign, if any, and ours."""
    operators = [COMPILED, 'our operators'] if mmcv_ext.is_compiled() else ['']
    size = 800, 1216
    makes = {}
    for operator in operators:
        for which in (STOCK, OURS):
            name = f'{which}, {operator}'.rstrip(', ')
            makes[name] = partial(make_targets, name=name, size=size)
    title, base = f'128 RoIs, 10 masks, {size[0]}x{size[1]}', next(iter(makes))
    yield from interleaved(args, 'mask targets', title, makes, base, images=1)


def make_logging(args: Namespace, iteration: int, name: str):
    """Make the logging of one iteration to histories of ``iteration`` entries."""
    hub = MessageHub('benchmark')
    random = np.random.default_rng(0)
    outputs = {f'loss_{i}': torch.rand((), device=args.device) for i in range(LOSSES)}
    for key in (*outputs, 'lr', 'time', 'data_time'):
        values = random.random(iteration)
        hub.log_scalars[f'train/{key}'] = HistoryBuffer(values, np.ones_like(values))
        hub.update_scalar(f'train/{key}', 0.5)
    runner = SimpleNamespace(message_hub=hub, log_processor=LogProcessor(50))
    hook = HOOKS[name]()

    def run():
        for key in ('lr', 'time', 'data_time'):
            hub.update_scalar(f'train/{key}', 0.5)
        hook.after_train_iter(runner, 0, None, outputs)

    run()
    checkpoint = dict(message_hub=hub.state_dict())
    hook.before_save_checkpoint(runner, checkpoint)
    size = len(pickle.dumps(checkpoint['message_hub']['log_scalars']))
    note = f'{name} at iteration {iteration:,}: {size:,} bytes in a checkpoint.'
    return dict(note=note), run


def logging_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of logging early and late in a training run."""
    for iteration in LOGGED_ITERATIONS:
        make = partial(make_logging, iteration=iteration)
        makes = {name: partial(make, name=name) for name in HOOKS}
        size = f'iteration {iteration:,}'
        for row in interleaved(args, 'logging', size, makes, STOCK_HOOK, images=1):
            row.pop(
                'peak_bytes', None
            )  # it counts only tensors, of which there are none
            yield row
