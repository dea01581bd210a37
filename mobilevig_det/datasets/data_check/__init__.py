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
from .config import check_evaluators, check_heads, splits_of
from .files import check_images
from .report import DataReport, FileReport, Finding

__all__ = [
    'DataReport',
    'Finding',
    'check_before_training',
    'check_data',
    'pointing_to_check_data',
    'splits_of',
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
        decode (bool): Whether to decode every image. If not, the beginning
            and the end of each file are read. Defaults to True.
        workers (int, optional): Threads that read images. Defaults to None:
            twice the number of cores, at least 8.
        progress (bool): Whether to show a progress bar. Defaults to True.

    Returns:
        DataReport: All findings; none if the data is clean.
    """
    report = DataReport()
    check_heads(cfg, report)
    image_ids: dict[str, dict[str, list]] = {name: {} for name in names}
    for split in splits_of(cfg, names):
        file_report = FileReport(report, f'{split.name}: {split.ann_file}')
        checker = AnnotationChecker(split, file_report)
        checker.check()
        images, used = checker.images, checker.used
        check_images(split, images, used, file_report, decode, workers, progress)
        image_ids[split.name].setdefault(split.ann_file, []).extend(images)
    for name in names:
        check_evaluators(cfg, name, image_ids[name], report)
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
    report = check_data(cfg, ('train', 'val'), decode=False)
    hint = f'tools/check_data.py {cfg.filename} lists everything'
    if report.stopping:
        lines = [
            'Training would fail on this data, or learn something wrong '
            f'({len(report.stopping)} in all; {hint}):'
        ]
        lines += [f'  {finding}' for finding in report.stopping[:5]]
        raise UserError('\n'.join(lines))
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
