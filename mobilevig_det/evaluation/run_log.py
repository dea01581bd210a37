"""What a training run has logged, and what the authors' runs did.

Reads what MMEngine writes to a work dir: one folder a start (a resumed run
has several), each with ``vis_data/scalars.json`` (a JSON object a line) and a
text log.
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
    """Curves of a run, in the order of training.

    ``train`` has a dict a logged step with ``at`` (epochs gone by; iterations
    in a run that does not count epochs), ``lr`` and the losses; ``val`` one an
    evaluation with ``at`` and the metrics without their ``coco/``, as
    fractions (-1: nothing to measure).
    """

    name: str
    by_epoch: bool = True
    train: list[dict[str, float]] = field(default_factory=list)
    val: list[dict[str, float]] = field(default_factory=list)

    def best(self) -> dict[str, float] | None:
        """The evaluation with the highest mask AP, or box AP without."""
        return max(
            self.val,
            key=lambda row: (row.get('segm_mAP', 0), row.get('bbox_mAP', 0)),
            default=None,
        )


def _read_lines(path: Path) -> list[dict]:
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(
                    f'{path}, line {number}: not JSON ({error}). '
                    'Did something else write there?'
                ) from None
            # The last one is being written, or never was to its end.
    return [record for record in records if isinstance(record, dict)]


def _epoch_length(folder: Path) -> tuple[bool, int]:
    """Whether a run counts epochs, and iterations an epoch: only the text
    log has it."""
    for path in sorted(folder.glob('*.log')):
        text = path.read_text(errors='replace')
        found = re.search(r'Epoch\(train\)\s+\[\s*\d+\]\[\s*\d+/(\d+)\]', text)
        if found:
            return True, int(found[1])
        if re.search(r'Iter\(train\)\s+\[', text):
            return False, 1
    raise UserError(
        f'{folder} has scalars but no text log of training '
        '(*.log), which says how long an epoch is: copy the '
        'whole folder of the run.'
    )


def read_run(work_dir: str | Path) -> Run:
    """Read the logs of a work dir, or of one start in it; training may still
    be going on.

    Raises:
        UserError: If there is no such folder, or no logs of training in it.
    """
    root = Path(work_dir)
    run = Run(str(work_dir).rstrip('/'))
    if not root.is_dir():
        raise UserError(
            f'There is no folder {str(work_dir)!r}: give the '
            'work dir of a training run (tools/train.py names it '
            'work_dirs/CONFIG by default).'
        )
    # Names are times, so that their order is that of the starts.
    for path in sorted(
        [*root.glob('vis_data/scalars.json'), *root.glob('*/vis_data/scalars.json')]
    ):
        records = _read_lines(path)
        train = [r for r in records if 'loss' in r and 'step' in r]
        if not train:  # a test, or stopped before the first line
            continue
        run.by_epoch, length = _epoch_length(path.parents[1])
        # What a resumed run does again counts instead of what was lost.
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
            f'{work_dir} has no logs of training yet '
            '(*/vis_data/scalars.json with losses): is it the '
            'work dir, and has the first line been logged?'
        )
    return run


def published_run(arch: str) -> Run:
    """The authors' COCO run of 'm' or 'b'."""
    run = Run(f'published {arch.upper()}')
    with open(PUBLISHED_ROOT / f'coco_1x_{arch}_train.csv') as file:
        for row in csv.DictReader(file):
            record = {key: float(value) for key, value in row.items()}
            record['at'] = (
                record['epoch'] - 1 + record['iter'] / record['iters_per_epoch']
            )
            run.train.append(record)
    with open(PUBLISHED_ROOT / f'coco_1x_{arch}_val.csv') as file:
        for row in csv.DictReader(file):
            record = {key: float(value) for key, value in row.items()}
            run.val.append(dict(record, at=record['epoch']))
    return run


def comparable_arch(work_dir: str | Path) -> str | None:
    """Which published run a work dir is to be seen against: 'b' for B on
    COCO, 'm' for the other sizes on COCO (their recipe is M's, and no run of
    theirs was published), None for anything else."""
    root = Path(work_dir)
    for path in sorted(
        [*root.glob('vis_data/config.py'), *root.glob('*/vis_data/config.py')]
    ):
        cfg = Config.fromfile(path, import_custom_modules=False)
        backbone = cfg.get('model', {}).get('backbone', {})
        if str(backbone.get('type')).endswith(
            'MobileViG'
        ) and 'instances_train2017' in str(cfg.get('train_dataloader')):
            return 'b' if backbone.get('arch', 'm') == 'b' else 'm'
        return None
    return None
