"""The parts of a config that must fit its data: evaluators and heads."""

import json
import os.path as osp
from collections.abc import Iterator

from mmengine.config import Config

from .annotations import AnnotationChecker
from .report import DataReport, some
from .splits import evaluators_of, splits_of

COCO_METRICS = (
    'CocoMetric',
    'FastCocoMetric',
    'mobilevig_det.evaluation.FastCocoMetric',
)


def check_evaluators(
    cfg: Config, name: str, checkers: list[AnnotationChecker], report: DataReport
) -> None:
    """Look whether the evaluator knows the images of its data set: to change
    the file of the one and not of the other is easily done."""
    if not checkers:
        return
    for evaluator in evaluators_of(cfg, name):
        path = evaluator.get('ann_file')
        if (
            not path
            or '://' in path
            or evaluator.get('type') not in COCO_METRICS
            or osp.realpath(path)
            in {osp.realpath(checker.split.ann_file) for checker in checkers}
        ):
            continue
        place = f'{name}_evaluator.ann_file={path}'
        try:
            with open(path, encoding='utf-8') as file:
                known = {image['id'] for image in json.load(file)['images']}
        except (OSError, ValueError, LookupError, TypeError) as error:
            report.add(
                'cannot be read',
                True,
                detail=f'{type(error).__name__}: {error}',
                file=place,
            )
            continue
        unknown = [
            id_ for checker in checkers for id_ in checker.images if id_ not in known
        ]
        if unknown:
            report.add(
                'lacks images of the data set that it is to evaluate',
                True,
                detail=f'{len(unknown)}, such as image {unknown[0]}',
                file=place,
            )


def check_heads(cfg: Config, report: DataReport) -> None:
    """Compare the heads' number of classes with the training set's."""
    loader = cfg.get('train_dataloader')
    if not loader:
        return
    splits = list(splits_of(cfg, ['train']))
    counts = {len(split.classes) for split in splits}
    if len(counts) != 1:
        return
    expected = counts.pop()
    for name, head in _heads(cfg.get('model') or {}, 'model'):
        if head.get('num_classes', expected) != expected:
            report.add(
                'another number of classes than the data',
                True,
                name,
                f'num_classes={head["num_classes"]}, but the training set '
                f'has {expected}: {some(splits[0].classes)}',
                file=cfg.filename or 'config',
            )


def _heads(model, path: str) -> Iterator[tuple]:
    if isinstance(model, dict):
        for key, value in model.items():
            if key in ('bbox_head', 'mask_head'):
                heads = value if isinstance(value, list) else [value]
                for head in heads:
                    if isinstance(head, dict):
                        yield f'{path}.{key}', head
            yield from _heads(value, f'{path}.{key}')
