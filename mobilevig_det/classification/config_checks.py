"""What the tools do otherwise for a classifier than for a detector."""

import os.path as osp
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..datasets.data_paths import leaf_datasets
from ..datasets.image_folder import list_classes, list_images
from ..errors import UserError
from .teacher import EXTRA


def is_classifier(cfg: Config) -> bool:
    """Whether a config is of a classifier, by its model's type."""
    kind = str((cfg.get('model') or {}).get('type')).rpartition('.')[-1]
    return kind in ('ImageClassifier', 'DistillingClassifier')


def check_classifier(cfg: Config, splits: list[str]) -> None:
    """Look, before anything is built, whether a classifier can be run: packages,
    images, classes, the teacher's file.

    Args:
        cfg (Config): A whole config of a classifier.
        splits (list[str]): What is to be used: 'train', 'val', 'test'.

    Raises:
        UserError: For the first thing that is missing, or doesn't fit.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    num_classes = cfg.model.head.get('num_classes', 1000)
    _check_mixing(cfg, num_classes)
    found: dict[str, list[str]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        _check_packages(loader, split)
        for dataset in leaf_datasets(loader['dataset']):
            if str(dataset.get('type')).rpartition('.')[-1] != 'ImageFolder':
                continue
            folder = osp.join(
                dataset.get('data_root') or '',
                (dataset.get('data_prefix') or {}).get('img', ''),
            )
            classes = list_classes(folder)
            _check_count(folder, classes, num_classes)
            list_images(folder, classes)
            found[folder] = classes
    if len({tuple(classes) for classes in found.values()}) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise UserError(
            f'{first} and {second} are of other classes: '
            f'{", ".join(sorted(set(one) ^ set(other))[:5])} only in one of them.'
        )
    if 'train' in splits:
        _check_teacher(cfg)


def _check_count(folder: str, classes: list[str], num_classes: int) -> None:
    if len(classes) != num_classes:
        raise UserError(
            f'{folder} has {len(classes)} folders, so as many classes, but '
            f'model.head.num_classes is {num_classes}: give another folder, or set '
            'num_classes to that of the folder (model.head, '
            'model.data_preprocessor.mixing, and dataset of each dataloader).'
        )


def _check_mixing(cfg: Config, num_classes: int) -> None:
    mixing = (cfg.model.get('data_preprocessor') or {}).get('mixing')
    if mixing and mixing.get('num_classes', 1000) != num_classes:
        raise UserError(
            f'model.head.num_classes is {num_classes}, but '
            'model.data_preprocessor.mixing.num_classes is '
            f'{mixing.get("num_classes", 1000)}: they must be the same.'
        )


def _check_packages(loader: dict, split: str) -> None:
    """Whether MMPretrain can be imported, where a loader names it."""
    if not any(kind.startswith('mmpretrain.') for kind in _types(loader)):
        return
    try:
        import mmpretrain.datasets  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The {split} data takes transforms from MMPretrain, which cannot be '
            f'imported ({error}): {EXTRA}'
        ) from error


def _types(value: Any) -> Iterator[str]:
    """Every ``type`` in nested dicts and lists."""
    if isinstance(value, dict):
        yield str(value.get('type'))
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def _check_teacher(cfg: Config) -> None:
    teacher = cfg.model.get('teacher')
    if not teacher:
        return
    if find_spec('timm') is None:
        raise UserError(f'The teacher {teacher.model} needs timm: {EXTRA}')
    place = teacher.checkpoint
    if '://' not in place and not osp.isfile(place):
        raise UserError(
            f"There is no teacher's file {place!r} (looked at {osp.abspath(place)}): "
            'set TEACHER_FILE, or model.teacher.checkpoint, to the file, or to '
            'its address.'
        )
