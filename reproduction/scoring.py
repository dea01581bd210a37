"""Find a published checkpoint and evaluate it on a config's test data."""

import contextlib
import hashlib
import io
import json
import random
import tempfile
from pathlib import Path
from typing import NamedTuple

from mobilevig_det.checkpoints import explain_mismatch
from mobilevig_det.checkpoints.weights import PUBLISHED, SCHEME, find_file
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
from tqdm import tqdm

from . import figures
from .confidence import CocoAP, Interval, wilson

KINDS = {figures.BOX_AP: 'bbox', figures.MASK_AP: 'segm'}


class Checkpoint(NamedTuple):
    """A checkpoint file: its path, name, SHA-256 and size in bytes."""

    path: Path
    name: str
    sha256: str
    size: int

    def facts(self) -> dict[str, object]:
        """Return the entries for the report, which does not show the path."""
        return dict(name=self.name, sha256=self.sha256, bytes=self.size)


def fetch_checkpoint(
    name: str, given: dict[str, str] | None = None, repository: str | None = None
) -> Checkpoint:
    """Find or download a published checkpoint and compute its SHA-256.

    Args:
        name (str): A name of ``mobilevig://``.
        given (dict[str, str], optional): Paths by such names, used instead of
            downloads.
        repository (str, optional): Address of a copy of the authors' repository.
            Defaults to None: the addresses of ``mobilevig://``.

    Returns:
        Checkpoint: The file.

    Raises:
        UserError: If the file cannot be found or downloaded, or differs from the
            published one.
    """
    published = PUBLISHED[name]
    called = Path(published.path or '').name
    if given and name in given:
        path = Path(given[name]).expanduser()
        called = path.name
    elif published.path is None:
        raise UserError(
            'the name of the published file is not known: give it with '
            f'--checkpoint {name}=/path/to/file'
        )
    elif repository is not None:
        path = find_file(f'{repository.rstrip("/")}/{published.path}')
    else:
        path = find_file(SCHEME + name)
    if not path.is_file():
        raise UserError(f'There is no checkpoint file {str(path)!r}.')
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if published.sha256 not in (None, sha256):
        raise UserError(
            f'{called} is not the published file: its SHA-256 is {sha256}, not '
            f'{published.sha256}.'
        )
    return Checkpoint(path, called, sha256, path.stat().st_size)


class Images(NamedTuple):
    """A data set or a subset, its full length, and a hash of all names and labels."""

    dataset: BaseDataset
    of: int
    sha256: str

    @property
    def is_subset(self) -> bool:
        """Whether only a part of the images is evaluated."""
        return len(self.dataset) < self.of


class Score(NamedTuple):
    """A measured value, and its 95 % interval if it comes from a subset."""

    measured: float
    interval: Interval | None = None


def load_images(cfg: Config, number: int | None = None) -> Images:
    """Load a config's test data, or a random subset of it, the same every time.

    Args:
        cfg (Config): A complete config.
        number (int, optional): Number of images. Defaults to None: all.

    Raises:
        UserError: If the data cannot be found.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    check_data_paths(cfg, ['test'])
    if is_classifier(cfg):
        check_classifier(cfg, ['test'])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
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
    cfg: Config, file: Checkpoint, images: Images, device: str, quantities: list[str]
) -> dict[str, Score]:
    """Evaluate a checkpoint in one pass over the images.

    Args:
        cfg (Config): A complete config.
        file (Checkpoint): The weights, which are loaded strictly.
        images (Images): From :func:`load_images`.
        device (str): The model's device.
        quantities (list[str]): Top-1 of the raw or of the averaged weights, or APs.

    Returns:
        dict[str, Score]: The score of each quantity.

    Raises:
        UserError: If the checkpoint does not fit the config.
    """
    model = MODELS.build(cfg.model)
    if is_classifier(cfg):
        averaged = quantities == [figures.AVERAGED_TOP1]
        load_classifier(model, str(file.path), averaged)
        evaluator = Evaluator(cfg.test_evaluator)
        top1 = _run(model.to(device), cfg, images, evaluator)['accuracy/top1']
        right = round(top1 / 100 * len(images.dataset))
        interval = wilson(right, len(images.dataset)) if images.is_subset else None
        return {quantities[0]: Score(top1, interval)}
    with explain_mismatch(file.name):
        load_checkpoint(model, f'{SCHEME}{file.path.resolve()}', 'cpu', strict=True)
    with tempfile.TemporaryDirectory() as folder:
        found = f'{folder}/found'
        metric = dict(cfg.test_evaluator, format_only=True, outfile_prefix=found)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = Evaluator(metric)
        _run(model.to(device), cfg, images, evaluator)
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
        interval = ap.interval() if images.is_subset else None
        scores[quantity] = Score(ap.value(), interval)
    return scores


@torch.no_grad()
def _run(
    model: BaseModel, cfg: Config, images: Images, evaluator: Evaluator
) -> dict[str, float]:
    """Run the model on the images and return the evaluator's metrics."""
    loader = Runner.build_dataloader(
        dict(cfg.test_dataloader, dataset=images.dataset, persistent_workers=False)
    )
    evaluator.dataset_meta = images.dataset.metainfo
    model.eval()
    for batch in tqdm(loader, desc=Path(cfg.filename).stem):
        evaluator.process(model.test_step(batch), batch)
    return evaluator.evaluate(len(images.dataset))
