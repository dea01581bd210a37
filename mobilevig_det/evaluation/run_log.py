"""Read the logs of training runs, and those that the authors published.

A work dir of MMEngine has one folder for each start of the training, and so several if
it was resumed. Each contains a text log and ``vis_data/scalars.json``, which has a JSON
object per line.
"""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from ..errors import UserError

PUBLISHED_ROOT = Path(__file__).parent / 'data'
METRICS = tuple(
    f'{kind}_mAP{suffix}' for kind in ('bbox', 'segm') for suffix in ('', '_50', '_75')
)


@dataclass
class Run:
    """Curves of a training run.

    Attributes:
        name: Name to show.
        by_epoch: Whether the run counts epochs instead of iterations.
        train: One dict per logged step with ``at`` (completed epochs or iterations),
            ``lr`` and the losses.
        val: One dict per evaluation with ``at`` and the metrics, without the prefix
            ``coco/``, as fractions (-1 if there are no objects).
    """

    name: str
    by_epoch: bool = True
    train: list[dict[str, float]] = field(default_factory=list)
    val: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float] | None:
        """Return the evaluation with the highest mask AP, or box AP without masks."""
        return max(
            self.val,
            key=lambda row: (row.get('segm_mAP', 0), row.get('bbox_mAP', 0)),
            default=None,
        )


def read_run(work_dir: str | Path) -> Run:
    """Read the logs of a training run, which may still be in progress.

    Args:
        work_dir (str | Path): A work dir, or the folder of one start in it.

    Returns:
        Run: The curves of all starts, without the steps that were repeated.

    Raises:
        UserError: If the folder doesn't exist, or contains no logs of training.
    """
    run = Run(str(work_dir).rstrip('/'))
    if not Path(work_dir).is_dir():
        raise UserError(
            f'There is no folder {str(work_dir)!r}: give the work dir of a training '
            'run (tools/train.py names it work_dirs/CONFIG by default).'
        )
    for path in _vis_data(work_dir, 'scalars.json'):
        records = _read_lines(path)
        train = [r for r in records if 'loss' in r and 'step' in r]
        if not train:  # a test, or a run that stopped before its first log entry
            continue
        run.by_epoch, length = _epoch_length(path.parents[1])
        # Drop the earlier records of steps that a resumed run repeats.
        start = (train[0]['step'] - 1) / length
        run.train = [r for r in run.train if r['at'] <= start]
        run.val = [r for r in run.val if r['at'] <= start]
        run.train += [dict(r, at=r['step'] / length) for r in train]
        run.val += [
            dict({k.split('/')[-1]: v for k, v in r.items()}, at=r['step'])
            for r in records
            if 'loss' not in r and any(k.endswith('mAP') for k in r)
        ]
    if not run.train:
        raise UserError(
            f'{work_dir} has no logs of training yet (*/vis_data/scalars.json with '
            'losses): is it the work dir, and has the run logged its first step?'
        )
    return run


def _vis_data(work_dir: str | Path, name: str) -> list[Path]:
    """Find a file of each start in order of time, which the folders are named after."""
    root = Path(work_dir)
    return sorted([*root.glob(f'vis_data/{name}'), *root.glob(f'*/vis_data/{name}')])


def _read_lines(path: Path) -> list[dict]:
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break  # incomplete: still being written, or the training was killed
            raise UserError(
                f'{path}, line {number}: not JSON ({error}). '
                'Did another program write to the file?'
            ) from None
    return [record for record in records if isinstance(record, dict)]


def _epoch_length(folder: Path) -> tuple[bool, int]:
    """Read from the text log whether a run counts epochs, and their length."""
    for path in sorted(folder.glob('*.log')):
        text = path.read_text(errors='replace')
        found = re.search(r'Epoch\(train\)\s+\[\s*\d+\]\[\s*\d+/(\d+)\]', text)
        if found:
            return True, int(found[1])
        if re.search(r'Iter\(train\)\s+\[', text):
            return False, 1
    raise UserError(
        f'{folder} has scalars but no text log of training (*.log), which says how '
        'long an epoch is: copy the whole folder of the run.'
    )


def published_run(arch: str) -> Run:
    """Read the log of a COCO run that the authors published.

    Args:
        arch (str): Size of MobileViG, 'm' or 'b'.

    Returns:
        Run: Its curves.
    """
    run = Run(f'published {arch.upper()}')
    for row in _read_csv(f'coco_1x_{arch}_train.csv'):
        done = row['epoch'] - 1 + row['iter'] / row['iters_per_epoch']
        run.train.append(dict(row, at=done))
    for row in _read_csv(f'coco_1x_{arch}_val.csv'):
        run.val.append(dict(row, at=row['epoch']))
    return run


def _read_csv(name: str) -> list[dict[str, float]]:
    with open(PUBLISHED_ROOT / name) as file:
        rows = csv.DictReader(file)
        return [{key: float(value) for key, value in row.items()} for row in rows]


def comparable_arch(work_dir: str | Path) -> str | None:
    """Choose the published run to compare a run with.

    Args:
        work_dir (str | Path): See :func:`read_run`.

    Returns:
        str | None: 'b' for MobileViG-B on COCO; 'm' for the other sizes on COCO, which
        have the recipe of M and whose logs weren't published; None for anything else.
    """
    for path in _vis_data(work_dir, 'config.py')[:1]:
        cfg = Config.fromfile(path, import_custom_modules=False)
        backbone = cfg.get('model', {}).get('backbone', {})
        is_mobilevig = str(backbone.get('type')).endswith('MobileViG')
        if is_mobilevig and 'instances_train2017' in str(cfg.get('train_dataloader')):
            return 'b' if backbone.get('arch', 'm') == 'b' else 'm'
    return None
