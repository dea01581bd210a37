"""Inference from image files to rows of detections, as ``tools/infer.py`` runs it.

Sequential and overlapped with reading, next to the model alone on prepared tensors.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mobilevig_det.config import load_config
from mobilevig_det.datasets import make_shapes, read_image
from mobilevig_det.inference.detection_rows import found_row
from mobilevig_det.inference.detector import load_detector, prepare
from mobilevig_det.inference.inferencer import Picture
from mobilevig_det.inference.overlap import overlapped

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from .interleaved import interleaved

IMAGES = 96
DETECTIONS = 5  # per image; the weights are random
CONFIG = 'mobilevig_ti_fpn_shapes'
SEQUENTIAL, OVERLAPPED, MODEL = 'sequential', 'overlapped', 'the model alone'


def _random_detector(folder: str) -> tuple[Config, str]:
    """Save random weights of the demo's detector; it finds as much as a trained one."""
    cfg = load_config(CONFIG)
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    checkpoint = f'{folder}/epoch_1.pth'
    meta = dict(dataset_meta=cfg.metainfo.to_dict())
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=DETECTIONS)
    return prepare(cfg, 0.0), checkpoint


def make_images(args: Namespace, name: str, folder: str) -> tuple[dict, Callable]:
    with tempfile.TemporaryDirectory() as temporary:
        detector = load_detector(*_random_detector(temporary), args.device)
    paths = sorted(map(str, Path(folder, 'train').iterdir()))

    def read(path: str) -> Picture:
        return Picture(path, read_image(path), 0)

    def finish(found) -> dict:
        return dict(found_row(found, range(1, 4), 0.0))

    def sequential() -> int:
        found = detector.predict(map(read, paths), args.batch_size)
        return sum(len(finish(one)['boxes']) for one in found)

    def overlap() -> int:
        rows = overlapped(detector, paths, read, finish, args.batch_size)
        return sum(len(row['boxes']) for row in rows)

    # Batches as predict() forms them: all images have one size.
    ready = [detector.pipeline(dict(img=read_image(path))) for path in paths]
    batches = [
        detector.collate_fn(ready[i : i + args.batch_size])
        for i in range(0, len(ready), args.batch_size)
    ]

    def model() -> None:
        with torch.no_grad():
            for batch in batches:
                detector.model.test_step(batch)

    return {}, {SEQUENTIAL: sequential, OVERLAPPED: overlap, MODEL: model}[name]


def image_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of 96 generated images of 128x128."""
    with tempfile.TemporaryDirectory() as folder:
        make_shapes(folder, num_train=IMAGES, num_val=1)
        makes = {
            name: partial(make_images, name=name, folder=folder)
            for name in (SEQUENTIAL, OVERLAPPED, MODEL)
        }
        size = f'128x128, batch {args.batch_size}'
        for row in interleaved(args, 'images', size, makes, SEQUENTIAL, images=IMAGES):
            row.pop('peak_bytes', None)  # that of one of several threads
            yield row
