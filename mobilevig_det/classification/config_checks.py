"""Validate the config of a classifier before anything is built."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..datasets.data_paths import leaf_datasets
from ..datasets.image_folder import list_classes, list_images
from ..errors import UserError
from .distillation import EXTRA, check_timm


def _type_of(cfg: dict | None) -> str:
    return str((cfg or {}).get('type')).rpartition('.')[-1]


def is_classifier(cfg: Config) -> bool:
    """Return whether the model of a config is a classifier."""
    return _type_of(cfg.get('model')) in ('ImageClassifier', 'DistillingClassifier')


def check_classifier(cfg: Config, splits: list[str]) -> None:
    """Check that packages, images, classes and the teacher's file fit a classifier.

    Args:
        cfg (Config): The complete config of a classifier.
        splits (list[str]): Splits that will be used: 'train', 'val', 'test'.

    Raises:
        UserError: If something is missing or doesn't fit; the message names the first
            problem.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    num_classes = cfg.model.head.get('num_classes', 1000)
    mixing = (cfg.model.get('data_preprocessor') or {}).get('mixing')
    mixed = mixing.get('num_classes', 1000) if mixing else num_classes
    if mixed != num_classes:
        raise UserError(
            f'model.head.num_classes is {num_classes}, but model.data_preprocessor.'
            f'mixing.num_classes is {mixed}: they must be the same.'
        )
    found: dict[str, list[str]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        _check_packages(loader, split)
        for dataset in leaf_datasets(loader['dataset']):
            if _type_of(dataset) == 'ImageFolder':
                folder, classes = _check_folder(dataset, num_classes)
                found[folder] = classes
    if len({tuple(classes) for classes in found.values()}) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise UserError(
            f'{first} and {second} have different classes: '
            f'{", ".join(sorted(set(one) ^ set(other))[:5])} are only in one of them.'
        )
    if 'train' in splits and cfg.model.get('teacher'):
        _check_teacher(cfg.model.teacher)


def _check_folder(dataset: dict, num_classes: int) -> tuple[str, list[str]]:
    """Check a folder of images, and return it with the names of its classes."""
    images = (dataset.get('data_prefix') or {}).get('img', '')
    folder = osp.join(dataset.get('data_root') or '', images)
    classes = list_classes(folder)
    if len(classes) != num_classes:
        raise UserError(
            f'{folder} has {len(classes)} subfolders, one for each class, but '
            f'model.head.num_classes is {num_classes}. Use another folder, or set '
            'num_classes to the number of subfolders (in model.head, in '
            'model.data_preprocessor.mixing and in the dataset of each dataloader).'
        )
    list_images(folder, classes)
    return folder, classes


def _check_packages(loader: dict, split: str) -> None:
    """Check that MMPretrain can be imported if a dataloader uses it."""
    if not any(kind.startswith('mmpretrain.') for kind in _types(loader)):
        return
    try:
        import mmpretrain.datasets  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The {split} pipeline uses transforms of MMPretrain, which cannot be '
            f'imported ({error}): {EXTRA}'
        ) from error


def _types(value: Any) -> Iterator[str]:
    """Yield every ``type`` in nested dicts and lists."""
    if isinstance(value, dict):
        yield str(value.get('type'))
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def _check_teacher(teacher: dict) -> None:
    check_timm(teacher['model'])
    place = teacher['checkpoint']
    if '://' not in place and not osp.isfile(place):
        raise UserError(
            f'There is no teacher file {place!r} (looked at {osp.abspath(place)}): set '
            'TEACHER_FILE or model.teacher.checkpoint to the path or address of one.'
        )
