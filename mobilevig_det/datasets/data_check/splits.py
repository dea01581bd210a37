"""What the checks need to know of a config's data sets."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..data_paths import leaf_datasets


class Split(NamedTuple):
    """What the checks need to know of one data set of a config."""

    name: str  # 'train', 'val' or 'test'
    ann_file: str
    img_dir: str
    classes: Sequence[str]
    trains: bool
    loads_masks: bool  # the pipeline decodes masks
    scores_masks: bool  # the evaluator compares masks
    needs_annotations: bool
    filter_empty: bool
    min_size: int
    scales: tuple  # (W, H) that the pipeline resizes to, keeping the ratio


def splits_of(cfg: Config, names: Sequence[str]) -> Iterator[Split]:
    """The COCO-format data sets that a config's loaders read, each once."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    seen = set()
    for name in names:
        loader = cfg.get(f'{name}_dataloader')
        scored = [
            metric
            for evaluator in evaluators_of(cfg, name)
            if not evaluator.get('format_only')
            for metric in np.atleast_1d(evaluator.get('metric', 'bbox'))
        ]
        for dataset_cfg in leaf_datasets(loader['dataset']) if loader else ():
            dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
            if not _reads_coco(dataset):
                print_log(
                    f'{name}: a {type(dataset).__name__} is not a '
                    'COCO-format set, and is not checked.',
                    level=logging.WARNING,
                )
                continue
            if '://' in dataset.ann_file:
                print_log(
                    f'{name}: {dataset.ann_file} is not on the file system, '
                    'and is not checked.',
                    level=logging.WARNING,
                )
                continue
            filter_cfg = (not dataset.test_mode and dataset.filter_cfg) or {}
            split = Split(
                name=name,
                ann_file=dataset.ann_file,
                img_dir=dataset.data_prefix.get('img') or '',
                classes=tuple(dataset.metainfo['classes']),
                trains=not dataset.test_mode,
                loads_masks=any(
                    getattr(transform, 'with_mask', False)
                    for transform in dataset.pipeline.transforms
                ),
                scores_masks='segm' in scored,
                needs_annotations=name == 'train' or bool(scored),
                filter_empty=bool(filter_cfg.get('filter_empty_gt')),
                min_size=filter_cfg.get('min_size', 0),
                scales=tuple(
                    tuple(transform.scale)
                    for transform in dataset.pipeline.transforms
                    if getattr(transform, 'keep_ratio', False)
                    and isinstance(transform.scale, (tuple, list))
                ),
            )
            if split[1:] not in seen:
                seen.add(split[1:])
                yield split


def _reads_coco(dataset) -> bool:
    """Whether it reads what CocoDataset reads; some of its subclasses, for
    panoptic segmentation or LVIS, have formats of their own."""
    return isinstance(dataset, CocoDataset) and all(
        getattr(type(dataset), name) is getattr(CocoDataset, name)
        for name in ('load_data_list', 'parse_data_info')
    )


def evaluators_of(cfg: Config, name: str) -> list:
    evaluators = cfg.get(f'{name}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]
