"""One pass over the images: a config's model, with a file's weights."""

import contextlib
import hashlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mobilevig_det.checkpoints.weights import SCHEME
from mobilevig_det.classification import load_classifier
from mobilevig_det.classification.config_checks import check_classifier, is_classifier
from mobilevig_det.datasets import check_data_paths
from mobilevig_det.errors import UserError

import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from pycocotools.coco import COCO

from . import figures
from .confidence import CocoAP, Interval, wilson
from .files import File

KINDS = {figures.BOX_AP: 'bbox', figures.MASK_AP: 'segm'}


class Images(NamedTuple):
    """The images of a pass, of how many, and a hash of their names and labels."""

    dataset: BaseDataset
    of: int
    sha256: str

    @property
    def is_part(self) -> bool:
        return len(self.dataset) < self.of


class Score(NamedTuple):
    """A measured value; with an interval where it is of a part of the images."""

    value: float
    interval: Interval | None = None


def load_images(cfg: Config, number: int | None = None) -> Images:
    """The config's test data, or a random part of it, the same every time.

    Args:
        cfg (Config): A whole config.
        number (int, optional): How many images. Defaults to None: all.

    Raises:
        UserError: If the data is not there.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    check_data_paths(cfg, ['test'])
    if is_classifier(cfg):
        check_classifier(cfg, ['test'])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools' chatter
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    digest = hashlib.sha256()
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        name = '/'.join(Path(info['img_path']).parts[-2:])
        truth = info.get('gt_label', info.get('instances'))
        digest.update(f'{name} {truth}\n'.encode())
    total = len(dataset)
    if number is not None and number < total:
        chosen = sorted(random.Random(0).sample(range(total), number))
        dataset.get_subset_(chosen)
    return Images(dataset, total, digest.hexdigest())


def score(
    cfg: Config,
    file: File,
    images: Images,
    device: str,
    quantities: list[str],
    looked_at: Callable[[int], object],
) -> dict[str, Score]:
    """Measure what a pass over the images gives.

    Args:
        cfg (Config): A whole config.
        file (File): Loaded strictly.
        images (Images): From :func:`load_images`.
        device (str): Where the model runs.
        quantities (list[str]): Top-1 of one kind of weights, or APs.
        looked_at (Callable): Called with the number of images after each batch.

    Raises:
        UserError: If the file does not fit the config.
    """
    model = MODELS.build(cfg.model)
    if is_classifier(cfg):
        averaged = quantities == [figures.AVERAGED_TOP1]
        load_classifier(model, str(file.path), averaged)
        evaluator = Evaluator(cfg.test_evaluator)
        results = _look(model.to(device), cfg, images, evaluator, looked_at)
        top1 = results['accuracy/top1']
        right = round(top1 / 100 * len(images.dataset))
        interval = wilson(right, len(images.dataset)) if images.is_part else None
        return {quantities[0]: Score(top1, interval)}
    _load_detector(model, file)
    with tempfile.TemporaryDirectory() as folder:
        found = f'{folder}/found'
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = Evaluator(
                dict(cfg.test_evaluator, format_only=True, outfile_prefix=found)
            )
        _look(model.to(device), cfg, images, evaluator, looked_at)
        detections = {
            quantity: json.loads(Path(f'{found}.{KINDS[quantity]}.json').read_text())
            for quantity in quantities
        }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(cfg.test_evaluator.ann_file)
    image_ids = [
        images.dataset.get_data_info(i)['img_id'] for i in range(len(images.dataset))
    ]
    classes = truth.getCatIds(catNms=images.dataset.metainfo['classes'])
    scores = {}
    for quantity in quantities:
        ap = CocoAP(truth, detections[quantity], KINDS[quantity], image_ids, classes)
        interval = ap.interval() if images.is_part else None
        scores[quantity] = Score(ap.value(), interval)
    return scores


def _load_detector(model: torch.nn.Module, file: File) -> None:
    try:
        load_checkpoint(model, f'{SCHEME}{file.path.resolve()}', 'cpu', strict=True)
    except RuntimeError as error:
        raise UserError(f'{file.name} does not fit this detector.\n{error}') from error


@torch.no_grad()
def _look(
    model: BaseModel,
    cfg: Config,
    images: Images,
    evaluator: Evaluator,
    looked_at: Callable[[int], object],
) -> dict[str, float]:
    """Run the model over the images, and let the evaluator judge."""
    loader = Runner.build_dataloader(
        dict(cfg.test_dataloader, dataset=images.dataset, persistent_workers=False)
    )
    evaluator.dataset_meta = images.dataset.metainfo
    model.eval()
    for batch in loader:
        samples = model.test_step(batch)
        evaluator.process(samples, batch)
        looked_at(len(samples))
    return evaluator.evaluate(len(images.dataset))
