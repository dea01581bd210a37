"""The checks around a training: before it, and when it fails after all."""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ...errors import UserError
from .check import check_data


def check_before_training(cfg: Config) -> None:
    """The checks of :func:`check_data` that take seconds to a minute, on one
    process of a run.

    Raises:
        UserError: If training would not survive the data. It names the first
            files and records; tools/check_data.py lists all.
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
            'Tolerated in the data, as COCO tools do ('
            f'{hint}): '
            + '; '.join(f'{count} × {kind}' for kind, count in kinds.items()),
            logger='current',
            level=logging.WARNING,
        )


@contextmanager
def pointing_to_check_data(cfg: Config) -> Iterator[None]:
    """Around a run: if loading data ends it after all, say what to run.

    Raises:
        UserError: Instead of what came out of the data sets. The stack is
            printed first, since it may be a pipeline of one's own that fails.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = ('mmengine/dataset', 'mmdet/datasets', 'mmcv/transforms')
        if 'DataLoader worker' not in str(error) and not any(
            place in Path(frame.filename).as_posix()
            for frame in frames
            for place in places
        ):
            raise
        traceback.print_exc()
        raise UserError(
            f'Loading the data failed. tools/check_data.py {cfg.filename} '
            'looks for everything that may be wrong with it.'
        ) from error
