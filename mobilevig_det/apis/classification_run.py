"""A classifier over image files: the five best classes of each."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from tqdm import tqdm

from ..backbones import fuse_backbones
from ..classification import load_classifier
from ..datasets import ImageFileError, read_image
from ..datasets.image_folder import list_classes
from ..errors import UserError
from .input_files import Skipped


class Guess(NamedTuple):
    """A class and how sure the classifier is of it, from 0 to 1."""

    name: str
    score: float


def class_names(cfg: Config) -> tuple[str, ...]:
    """The classes' names where the file has none: the folders of the config's
    data, if that is there, or else their numbers."""
    number = cfg.model.head.get('num_classes', 1000)
    for split in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        folder = os.path.join(
            dataset.get('data_root') or '',
            (dataset.get('data_prefix') or {}).get('img', ''),
        )
        if os.path.isdir(folder) and len(names := list_classes(folder)) == number:
            return tuple(names)
    return tuple(str(i) for i in range(number))


class ClassificationRun:
    """A classifier that looks at image files one after another.

    Its weights are the raw ones, which the published top-1 is of.

    Args:
        cfg (Config): A whole config of a classifier.
        checkpoint (str): Its file, an address or a name.
        device (str, optional): Defaults to None: a GPU if there is one.
        topk (int): How many classes to tell. Defaults to 5.

    Raises:
        UserError: If the file does not fit the config.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str | None = None, topk: int = 5
    ) -> None:
        init_default_scope(cfg.get('default_scope') or 'mmdet')
        self.model = MODELS.build(cfg.model)
        self.classes = load_classifier(self.model, checkpoint) or class_names(cfg)
        self.topk = min(topk, len(self.classes))
        fuse_backbones(self.model.eval())
        try:
            self.model.to(device or get_device())
        except RuntimeError as error:
            raise UserError(f'--device {device}: {error}') from error
        # The files are read here, in the order and with the messages of ours.
        self.pipeline = Compose(
            [
                TRANSFORMS.build(step)
                for step in cfg.test_dataloader.dataset.pipeline
                if step.type != 'LoadImageFromFile'
            ]
        )

    @torch.no_grad()
    def look_at(self, path: str) -> list[Guess]:
        """The best classes of an image file, the best first.

        Raises:
            ImageFileError: If it can't be read.
        """
        packed = self.pipeline(dict(img=read_image(path), img_path=path))
        data = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        (sample,) = self.model(
            **self.model.data_preprocessor(data, False), mode='predict'
        )
        scores, labels = sample.pred_score.topk(self.topk)
        return [
            Guess(self.classes[label], score)
            for score, label in zip(scores.tolist(), labels.tolist())
        ]

    def images(
        self, paths: Iterable[str], skipped: Skipped, progress: tqdm
    ) -> dict[str, list[Guess]]:
        """The best classes of each file that can be read."""
        found = {}
        for path in paths:
            try:
                found[path] = self.look_at(path)
            except ImageFileError as error:
                skipped(path, str(error))
            progress.update()
        return found


def write_guesses(found: dict[str, list[Guess]], path: str | Path) -> None:
    """Write a JSON list with a ``file_name`` and its ``classes``, each with a
    ``name`` and a ``score``; in one move, so that no half of it is left."""
    content = [
        dict(file_name=name, classes=[guess._asdict() for guess in guesses])
        for name, guesses in found.items()
    ]
    part = Path(f'{path}.part')
    part.write_text(json.dumps(content, indent=1))
    os.replace(part, path)
