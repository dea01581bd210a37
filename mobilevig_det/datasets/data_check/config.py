"""Read the data sets of a config, and check evaluators and heads against them."""

import json
import logging
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..data_paths import leaf_datasets
from .report import DataReport, FileReport, first_few

COCO_METRICS = (
    'CocoMetric',
    'FastCocoMetric',
    'mobilevig_det.evaluation.FastCocoMetric',
)


class Split(NamedTuple):
    """What the checks need to know of a data set of a config.

    Attributes:
        name: 'train', 'val' or 'test'.
        ann_file: Path of the annotation file.
        img_dir: Folder of the images.
        classes: Names, in the order of the labels.
        trains: Whether it is for training.
        loads_masks: Whether the pipeline decodes masks.
        scores_masks: Whether the evaluator compares masks.
        needs_annotations: Whether it is for training or for computing AP.
        filter_empty: Whether images without annotations are left out.
        min_size: Images with a shorter side, in pixels, are left out.
        scales: Sizes (W, H) to which the pipeline resizes images, keeping the ratio.
    """

    name: str
    ann_file: str
    img_dir: str
    classes: Sequence[str]
    trains: bool
    loads_masks: bool
    scores_masks: bool
    needs_annotations: bool
    filter_empty: bool
    min_size: int
    scales: tuple[tuple[int, int], ...]


def splits_of(cfg: Config, names: Sequence[str]) -> Iterator[Split]:
    """Find the COCO-format data sets that a config's loaders read.

    Args:
        cfg (Config): A complete config.
        names (Sequence[str]): Which loaders: 'train', 'val', 'test'.

    Yields:
        Split: Each data set once. Those of other formats, or of other storage than
        the file system, are skipped with a warning.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    seen = set()
    for name in names:
        loader = cfg.get(f'{name}_dataloader')
        for dataset_cfg in leaf_datasets(loader['dataset']) if loader else ():
            dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
            reason = None
            if not _reads_coco(dataset):
                reason = f'a {type(dataset).__name__} is not a COCO-format set'
            elif '://' in dataset.ann_file:
                reason = f'{dataset.ann_file} is not on the file system'
            if reason:
                text = f'{name}: {reason}, and is not checked.'
                print_log(text, level=logging.WARNING)
                continue
            split = _describe(dataset, name, _evaluators(cfg, name))
            if split[1:] not in seen:
                seen.add(split[1:])
                yield split


def _reads_coco(dataset) -> bool:
    """Whether a data set reads files as CocoDataset does. Some of its subclasses, for
    panoptic segmentation or LVIS, have formats of their own."""
    return isinstance(dataset, CocoDataset) and all(
        getattr(type(dataset), name) is getattr(CocoDataset, name)
        for name in ('load_data_list', 'parse_data_info')
    )


def _describe(dataset: CocoDataset, name: str, evaluators: list[dict]) -> Split:
    scored = [
        metric
        for evaluator in evaluators
        if not evaluator.get('format_only')
        for metric in np.atleast_1d(evaluator.get('metric', 'bbox'))
    ]
    filter_cfg = (not dataset.test_mode and dataset.filter_cfg) or {}
    transforms = dataset.pipeline.transforms
    return Split(
        name=name,
        ann_file=dataset.ann_file,
        img_dir=dataset.data_prefix.get('img') or '',
        classes=tuple(dataset.metainfo['classes']),
        trains=not dataset.test_mode,
        loads_masks=any(getattr(step, 'with_mask', False) for step in transforms),
        scores_masks='segm' in scored,
        needs_annotations=name == 'train' or bool(scored),
        filter_empty=bool(filter_cfg.get('filter_empty_gt')),
        min_size=filter_cfg.get('min_size', 0),
        scales=tuple(
            tuple(step.scale)
            for step in transforms
            if getattr(step, 'keep_ratio', False)
            and isinstance(step.scale, (tuple, list))
        ),
    )


def _evaluators(cfg: Config, name: str) -> list[dict]:
    evaluators = cfg.get(f'{name}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def check_evaluators(
    cfg: Config, name: str, image_ids: Mapping[str, Iterable], report: DataReport
) -> None:
    """Check that the evaluators of a split know the images of its data sets.

    It is easily forgotten to change the file of the one together with the other's.

    Args:
        cfg (Config): A complete config.
        name (str): 'train', 'val' or 'test'.
        image_ids (Mapping[str, Iterable]): Ids of the images by the path of the
            annotation file, for each data set of the split.
        report (DataReport): Gets the findings.
    """
    checked = {osp.realpath(path) for path in image_ids}
    for evaluator in _evaluators(cfg, name) if image_ids else ():
        path = evaluator.get('ann_file')
        if not path or '://' in path or evaluator.get('type') not in COCO_METRICS:
            continue
        if osp.realpath(path) in checked:
            continue
        file_report = FileReport(report, f'{name}_evaluator.ann_file={path}')
        try:
            with open(path, encoding='utf-8') as file:
                known = {image['id'] for image in json.load(file)['images']}
        except (OSError, ValueError, LookupError, TypeError) as error:
            detail = f'{type(error).__name__}: {error}'
            file_report.error('cannot be read', detail=detail)
            continue
        unknown = [id for ids in image_ids.values() for id in ids if id not in known]
        if unknown:
            file_report.error(
                'lacks images of the data set that it is to evaluate',
                detail=f'{len(unknown)}, such as image {unknown[0]}',
            )


def check_heads(cfg: Config, report: DataReport) -> None:
    """Check that the heads have as many classes as the training data.

    Args:
        cfg (Config): A complete config.
        report (DataReport): Gets the findings.
    """
    splits = list(splits_of(cfg, ['train']))
    counts = {len(split.classes) for split in splits}
    if len(counts) != 1:  # no data set, or several that don't agree
        return
    expected = counts.pop()
    for name, head in _heads(cfg.get('model') or {}, 'model'):
        if head.get('num_classes', expected) != expected:
            FileReport(report, cfg.filename or 'config').error(
                'another number of classes than the data',
                name,
                f'num_classes={head["num_classes"]}, but the training set '
                f'has {expected}: {first_few(splits[0].classes)}',
            )


def _heads(model, path: str) -> Iterator[tuple[str, dict]]:
    """Yield the box and mask heads in a model's config, with their places."""
    for key, value in model.items() if isinstance(model, dict) else ():
        if key in ('bbox_head', 'mask_head'):
            for head in value if isinstance(value, list) else [value]:
                if isinstance(head, dict):
                    yield f'{path}.{key}', head
        yield from _heads(value, f'{path}.{key}')
