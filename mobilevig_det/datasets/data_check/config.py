"""Read data sets and evaluators from a config, and check the model against them."""

import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..data_paths import leaf_datasets
from .report import DataReport, FileReport, first_few

COCO_METRICS = ('CocoMetric', 'FastCocoMetric')
# What a subclass of CocoDataset must not replace, for its files to be COCO's, and for
# single records of them to be loaded as the data set loads them.
FORMAT_METHODS = ('load_data_list', 'parse_data_info')
LOADING_METHODS = ('full_init', 'get_data_info', 'prepare_data', '__getitem__')


class Metric(NamedTuple):
    """A COCO metric of a config.

    Attributes:
        ann_file: Its annotation file, or None if it takes the data set's.
        backend_args: Of the file backend that reads it, or None.
        kinds: What it computes: 'bbox', 'segm' and so on. Nothing if it only writes
            files.
        part: Number of the only data set that it evaluates, or None.
    """

    ann_file: str | None
    backend_args: dict | None
    kinds: frozenset[str]
    part: int | None


class Split(NamedTuple):
    """What the checks need to know of an annotation file.

    Attributes:
        name: 'train', 'val' or 'test'.
        ann_file: Path of the annotation file.
        backend_args: Of the file backend that reads it, or None.
        classes: Names, in the order of the labels.
        dataset: The data set without its content, or None if only an evaluator reads
            the file.
        trains: Whether it is for training.
        evaluated: Whether a COCO metric reads the file.
        scores_masks: Whether the metric compares masks.
        needs_annotations: Whether it is for training or for computing AP.
        config: The config of the data set, as text.
    """

    name: str
    ann_file: str
    backend_args: dict | None
    classes: tuple[str, ...]
    dataset: CocoDataset | None = None  # its length would load it
    trains: bool = False
    evaluated: bool = False
    scores_masks: bool = False
    needs_annotations: bool = False
    config: str = ''

    @property
    def img_dir(self) -> str:
        """Folder of the images."""
        return '' if self.dataset is None else self.dataset.data_prefix.get('img') or ''

    @property
    def transforms(self) -> Sequence:
        """The steps of the pipeline."""
        return () if self.dataset is None else self.dataset.pipeline.transforms

    @property
    def loads_masks(self) -> bool:
        """Whether the pipeline loads masks."""
        return any(getattr(step, 'with_mask', False) for step in self.transforms)

    @property
    def loads_polygons(self) -> bool:
        """Whether the pipeline loads masks as polygons, and ignores objects of RLE."""
        return any(
            getattr(step, 'with_mask', False) and not getattr(step, 'poly2mask', True)
            for step in self.transforms
        )

    @property
    def scales(self) -> Iterator[tuple[int, int]]:
        """Sizes (W, H) to which the pipeline resizes images, keeping the ratio."""
        for step in self.transforms:
            scale = getattr(step, 'scale', None)
            if getattr(step, 'keep_ratio', False) and isinstance(scale, (tuple, list)):
                yield tuple(scale)

    @property
    def filter_cfg(self) -> dict[str, Any]:
        """Which images the data set leaves out; see MMDetection's CocoDataset."""
        if self.dataset is None or self.dataset.test_mode:
            return {}
        return self.dataset.filter_cfg or {}


def splits_of(
    cfg: Config, name: str, metrics: Sequence[Metric], report: DataReport
) -> list[Split | None]:
    """Find the COCO-format data sets that a loader reads.

    Args:
        cfg (Config): A complete config.
        name (str): Which loader: 'train', 'val', 'test'.
        metrics (Sequence[Metric]): Its COCO metrics.
        report (DataReport): Is told which data sets can't be checked.

    Returns:
        list[Split | None]: The data sets in their order; None for one of another
        format.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    loader = cfg.get(f'{name}_dataloader')
    splits: list[Split | None] = []
    for part, dataset_cfg in enumerate(
        leaf_datasets(loader['dataset']) if loader else ()
    ):
        kind = dataset_cfg.get('type')
        kind = getattr(kind, '__name__', kind)
        split, reason = None, f'a {kind} is not a COCO-format set'
        try:
            dataset = DATASETS.build(dict(dataset_cfg, lazy_init=True))
            if _overrides_none(dataset, FORMAT_METHODS):
                split = _describe(dataset, name, part, metrics, str(dataset_cfg))
        except Exception as error:
            reason = f'a {kind} cannot be built without its data ({error})'
        if split is None:
            FileReport(report, name).skip(f'{reason}, and is not checked')
        splits.append(split)
    return splits


def _overrides_none(dataset, methods: Iterable[str]) -> bool:
    return isinstance(dataset, CocoDataset) and all(
        getattr(type(dataset), name) is getattr(CocoDataset, name) for name in methods
    )


def loads_like_coco(dataset: CocoDataset) -> bool:
    """Whether the data set's way from a record to the pipeline is CocoDataset's."""
    return not dataset.proposal_file and _overrides_none(dataset, LOADING_METHODS)


def same_file(path: str, other: str) -> bool:
    """Whether two paths or addresses are of one file."""
    return path == other or osp.realpath(path) == osp.realpath(other)


def _describe(
    dataset: CocoDataset, name: str, part: int, metrics: Iterable[Metric], config: str
) -> Split:
    own = [
        metric
        for metric in metrics
        if metric.part in (None, part)
        and (not metric.ann_file or same_file(metric.ann_file, dataset.ann_file))
    ]
    # Without a file of its own, a metric takes what the pipeline has loaded.
    of_file = [metric for metric in own if metric.ann_file]
    transforms = dataset.pipeline.transforms
    has_labels = 'LoadEmptyAnnotations' not in [type(t).__name__ for t in transforms]
    trains = not dataset.test_mode
    return Split(
        name=name,
        ann_file=dataset.ann_file,
        backend_args=dataset.backend_args,
        classes=tuple(dataset.metainfo['classes']),
        dataset=dataset,
        trains=trains and has_labels,
        evaluated=bool(of_file),
        scores_masks=any('segm' in metric.kinds for metric in of_file),
        config=config,
        needs_annotations=has_labels
        and (name == 'train' or any(metric.kinds for metric in own)),
    )


def split_of(metric: Metric, evaluated: Split) -> Split:
    """Describe the file of a metric that is of no data set.

    Args:
        metric (Metric): The metric.
        evaluated (Split): The data set that it evaluates.
    """
    assert metric.ann_file is not None
    return Split(
        name=f'{evaluated.name}_evaluator',
        ann_file=metric.ann_file,
        backend_args=metric.backend_args,
        classes=evaluated.classes,
        evaluated=True,
        scores_masks='segm' in metric.kinds,
        needs_annotations=bool(metric.kinds),
    )


def metrics_of(cfg: Config, name: str, report: DataReport) -> list[Metric]:
    """Find the COCO metrics of a split.

    Args:
        cfg (Config): A complete config.
        name (str): 'train', 'val' or 'test'.
        report (DataReport): Is told which evaluators can't be checked.
    """
    evaluators = cfg.get(f'{name}_evaluator') or []
    if isinstance(evaluators, dict) and 'metrics' in evaluators:
        # MultiDatasetsEvaluator has one metric for each data set.
        inner = evaluators['metrics']
        inner = inner if isinstance(inner, (list, tuple)) else [inner]
        has_parts = _type_name(evaluators) == 'MultiDatasetsEvaluator'
        numbered = [(part if has_parts else None, m) for part, m in enumerate(inner)]
    else:
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        numbered = [(None, metric) for metric in evaluators]
    metrics = []
    for part, metric in numbered:
        if _type_name(metric) not in COCO_METRICS:
            reason = f'{_type_name(metric)} is not a COCO metric, and is not checked'
            FileReport(report, f'{name}_evaluator').skip(reason)
            continue
        kinds = () if metric.get('format_only') else metric.get('metric', 'bbox')
        metrics.append(
            Metric(
                metric.get('ann_file'),
                metric.get('backend_args'),
                frozenset(np.atleast_1d(kinds).tolist()),
                part,
            )
        )
    return metrics


def _type_name(cfg) -> str:
    """Return the last part of the ``type`` of an object's config."""
    kind = cfg.get('type') if isinstance(cfg, dict) else type(cfg)
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def check_model(
    cfg: Config, splits: Sequence[Split | None], report: DataReport
) -> None:
    """Check that the heads fit the training data: its classes, and masks.

    Args:
        cfg (Config): A complete config.
        splits (Sequence[Split | None]): The training sets.
        report (DataReport): Gets the findings.
    """
    found = [split for split in splits if split and split.trains]
    if len({len(split.classes) for split in found}) != 1:
        return  # no data set, or several that don't agree
    file_report = FileReport(report, cfg.filename or 'config')
    expected = len(found[0].classes)
    for place, head in _heads(cfg.get('model') or {}, 'model'):
        if head.get('num_classes', expected) != expected:
            file_report.error(
                'another number of classes than the data',
                place,
                f'num_classes={head["num_classes"]}, but the training set '
                f'has {expected}: {first_few(found[0].classes)}',
            )
        kind = _type_name(head)
        wants_masks = place.endswith('mask_head') or kind.startswith('RTMDetIns')
        if not wants_masks or kind.startswith('BoxInst'):  # it learns from boxes
            continue
        if any(_loads_boxes_only(split) for split in found):
            file_report.error(
                'a mask head, but the training pipeline loads no masks',
                place,
                'set with_mask=True of its LoadAnnotations, or take a model of boxes',
            )


def _loads_boxes_only(split: Split) -> bool:
    """Whether the pipeline loads no masks. Steps of the user's own may load them."""
    return are_known(split.transforms) and not split.loads_masks


def are_known(transforms: Iterable) -> bool:
    """Whether no step of a pipeline is of the user's own."""
    packages = {type(step).__module__.partition('.')[0] for step in transforms}
    return packages <= {'mmdet', 'mmcv', 'mobilevig_det'}


def _heads(model, path: str) -> Iterator[tuple[str, dict]]:
    """Yield the box and mask heads in a model's config, with their places."""
    for key, value in model.items() if isinstance(model, dict) else ():
        if key in ('bbox_head', 'mask_head'):
            for head in value if isinstance(value, list) else [value]:
                if isinstance(head, dict):
                    yield f'{path}.{key}', head
        yield from _heads(value, f'{path}.{key}')
