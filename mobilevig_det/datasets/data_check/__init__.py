"""Find what is wrong with COCO-format data before training does.

A finding either stops training or is tolerated. It stops training if it would end it
with an error, hang it, or teach something wrong: an annotated image that can't be
read, an RLE mask of another size than its image, classes in another order. Anything
else is tolerated, as MMDetection and pycocotools tolerate it: a box without area is
skipped, a box that reaches outside the image is clipped.
"""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ...errors import UserError
from .annotations import AnnotationChecker
from .config import Split, check_model, metrics_of, same_file, split_of, splits_of
from .evaluators import check_metric, evaluated_parts
from .files import AnnotationFileError, ImageChecker, read_coco_file
from .report import DataReport, FileReport, Finding

__all__ = [
    'DataReport',
    'Finding',
    'check_before_training',
    'check_data',
    'pointing_to_check_data',
]


def check_data(
    cfg: Config,
    names: Sequence[str] = ('train', 'val', 'test'),
    decode: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> DataReport:
    """Check the data sets of a config, and what the config says of them.

    Args:
        cfg (Config): A complete config.
        names (Sequence[str]): Which loaders: 'train', 'val', 'test'.
        decode (bool): Whether to decode every image. If not, the beginning and the end
            of each file are read, and a sample is loaded. Defaults to True.
        workers (int, optional): Threads that read images. Defaults to None:
            twice the number of cores, at least 8.
        progress (bool): Whether to show a progress bar. Defaults to True.

    Returns:
        DataReport: All findings (none if the data is clean), what was counted, and
        what could not be checked.
    """
    report = DataReport()
    checked: dict[str, AnnotationChecker] = {}

    def check(split: Split, title: str) -> AnnotationChecker:
        """Check a file once for each way in which it is read."""
        key = repr(split._replace(name='', dataset=None))
        if key not in checked:
            file_report = FileReport(report, title)
            checked[key] = checker = AnnotationChecker(split, file_report)
            try:
                checker.check(read_coco_file(split))
            except AnnotationFileError as error:
                kind, detail = error.args
                file_report.error(kind, detail=detail)
            if split.dataset is not None:
                ImageChecker(checker, decode, workers, progress).check()
            checker.annotations.clear()
        return checked[key]

    for name in names:
        metrics = metrics_of(cfg, name, report)
        splits = splits_of(cfg, name, metrics, report)
        if name == 'train':
            check_model(cfg, splits, report)
        checkers = [check(s, f'{name}: {s.ann_file}') if s else None for s in splits]
        for metric in metrics:
            own = [c for c in evaluated_parts(metric, checkers) if c is not None]
            if not own or len(own) < len(evaluated_parts(metric, checkers)):
                continue  # splits_of has told that a data set isn't checked
            title = f'{name}_evaluator'
            known = None
            if metric.ann_file:
                title += f'.ann_file={metric.ann_file}'
                same = [c for c in own if same_file(c.split.ann_file, metric.ann_file)]
                file = same[0] if same else check(split_of(metric, own[0].split), title)
                known = file.images
                if not known:
                    continue
            check_metric(
                metric, known, [c.used for c in own], FileReport(report, title)
            )
    return report


def check_before_training(cfg: Config) -> None:
    """Run the checks of :func:`check_data` that take seconds to a minute.

    Only the process of rank 0 runs them.

    Args:
        cfg (Config): A complete config.

    Raises:
        UserError: If a finding stops training. It names the first files and records;
            tools/check_data.py lists all.
    """
    if int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0):
        return
    hint = f'tools/check_data.py {cfg.filename} lists everything'
    try:
        report = check_data(cfg, ('train', 'val'), decode=False)
    except Exception as error:
        # It must not stop what trains.
        reason = f'{type(error).__name__}: {error}'
        print_log(
            f'The data could not be checked ({reason}); training starts all the same.',
            logger='current',
            level=logging.WARNING,
        )
        return
    if report.stopping:
        lines = [
            'Training would fail on this data, or learn something wrong '
            f'({len(report.stopping)} in all; {hint}; --no-data-check trains anyway):'
        ]
        lines += [f'  {finding}' for finding in report.stopping[:5]]
        raise UserError('\n'.join(lines))
    for line in report.counts:
        print_log(f'Data of {line}', logger='current')
    for line in report.skipped:
        print_log(f'Not checked: {line}', logger='current', level=logging.WARNING)
    if report.findings:
        kinds = Counter(finding.kind for finding in report.findings)
        print_log(
            f'Tolerated in the data, as COCO tools do ({hint}): '
            + '; '.join(f'{count} × {kind}' for kind, count in kinds.items()),
            logger='current',
            level=logging.WARNING,
        )


@contextmanager
def pointing_to_check_data(cfg: Config) -> Iterator[None]:
    """Recommend tools/check_data.py if loading data fails within the block.

    Args:
        cfg (Config): The config that is run.

    Raises:
        UserError: Instead of an exception that the data sets or the pipeline raised.
            Its traceback is printed first, as a custom transform may be the cause.
    """
    try:
        yield
    except Exception as error:
        places = ('mmengine/dataset', 'mmdet/datasets', 'mmcv/transforms')
        files = [
            Path(frame.filename).as_posix()
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        if 'DataLoader worker' not in str(error) and not any(
            place in file for file in files for place in places
        ):
            raise
        traceback.print_exc()
        raise UserError(
            f'Loading the data failed. tools/check_data.py {cfg.filename} '
            'looks for everything that may be wrong with it.'
        ) from error
