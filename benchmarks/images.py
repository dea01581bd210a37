"""Inference from image files to rows of detections, as ``predict`` runs it.

Sequential processing is compared with overlapped reading and with the model alone.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mobilevig_det.config import load_config
from mobilevig_det.datasets import make_shapes
from mobilevig_det.inference.images import InputImage
from mobilevig_det.inference.models import load_predictor
from mobilevig_det.inference.pipeline import Pipeline
from mobilevig_det.inference.predictors import Predictor, Prepared, SizeBucketer
from mobilevig_det.ops import prepare_process_for_cpu

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from .interleaved import interleaved

IMAGES = 96
DETECTIONS = 5  # per image; the weights are random
CONFIG = 'mobilevig_ti_fpn_shapes'
SEQUENTIAL, OVERLAPPED, MODEL = 'sequential', 'overlapped', 'the model alone'


def _random_detector(device: str) -> Predictor:
    """Load the demo's detector with random weights and a fixed number of detections."""
    cfg = load_config(CONFIG)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=DETECTIONS)
    register_all_modules()
    torch.manual_seed(0)
    with tempfile.NamedTemporaryFile(suffix='.pth') as file:
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), file.name)
        return load_predictor(cfg, file.name, device)


def make_images(args: Namespace, name: str, folder: str) -> tuple[dict, Callable]:
    """Make an inference run over the images of a folder.

    Args:
        args (Namespace): Arguments of the command.
        name (str): SEQUENTIAL, OVERLAPPED or MODEL.
        folder (str): Folder of a data set of shapes.

    Returns:
        tuple[dict, Callable]: Facts about the row, and the function to time.
    """
    detector = _random_detector(args.device)
    if detector.device == 'cpu':
        prepare_process_for_cpu()
    paths = sorted(map(str, Path(folder, 'train').iterdir()))
    images = [InputImage(path, place) for place, path in enumerate(paths)]

    def batches() -> Iterator[list[Prepared]]:
        bucketer = SizeBucketer(args.batch_size)
        for image in images:
            yield from bucketer.add(detector.prepare(image))
        yield from bucketer.rest()

    def sequential() -> int:
        found = (one for batch in batches() for one in detector.predict_batch(batch))
        return sum(len(one.to_record()['boxes']) for one in found)

    def overlapped() -> int:
        with Pipeline(detector, args.batch_size) as pipeline:
            return sum(len(one.to_record()['boxes']) for one in pipeline.run(images))

    ready = list(batches())

    def model() -> None:
        with torch.no_grad():
            for batch in ready:
                detector._forward(batch, detector.model)

    return {}, {SEQUENTIAL: sequential, OVERLAPPED: overlapped, MODEL: model}[name]


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
            row.pop('peak_bytes', None)  # measured in one of several threads only
            yield row
