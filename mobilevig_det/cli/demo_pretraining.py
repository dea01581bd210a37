"""Pretrain on generated classes, then train the demo's detector with these weights and
from scratch, and draw both AP curves. Run it again to resume after an interruption."""

import argparse
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .arguments import make_parser
from .command import command
from .demo import PROGRAM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.run_log import Run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo_pretraining')
    parser.add_argument('--data-dir', default='data', help='for the generated images')
    parser.add_argument('--class-images', type=int, default=3000, help='to pretrain on')
    parser.add_argument('--images', type=int, default=600, help='to detect in')
    parser.add_argument('--epochs', type=int, default=12, help='of pretraining')
    parser.add_argument('--detector-epochs', type=int, default=5)
    parser.add_argument('--out', help='picture (default: WORK_DIR/pretraining.png)')
    return parser.parse_args(argv)


def train(config: str, work_dir: Path, epochs: int, *options: str) -> Path:
    """Train unless the last checkpoint is there, and return its path."""
    checkpoint = work_dir / f'epoch_{epochs}.pth'
    if checkpoint.is_file():
        print(f'{checkpoint} is there already.')
        return checkpoint
    resume = ['--resume'] if list(work_dir.glob('epoch_*.pth')) else []
    command_line = [
        *PROGRAM,
        'train',
        config,
        '--work-dir',
        str(work_dir),
        *resume,
        '--cfg-options',
        f'train_cfg.max_epochs={epochs}',
        f'max_epochs={epochs}',
        f'param_scheduler.1.T_max={epochs}',
        *options,
    ]
    print('$', ' '.join(command_line), flush=True)
    code = subprocess.run(command_line, env={'GOMP_SPINCOUNT': '1000', **os.environ})
    if code.returncode:
        raise UserError(
            f'mobilevig_det train failed (exit code {code.returncode}), see above.'
        )
    return checkpoint


def iterations(run: 'Run') -> float:
    """Return the number of iterations of an epoch."""
    return run.train[-1]['step'] / run.train[-1]['at']


def reached(run: 'Run', name: str, value: float) -> str:
    """Say after how many iterations a run reached an AP."""
    for row in run.val:
        if row.get(name, -1) >= value:
            return f'{row["at"] * iterations(run):.0f} iterations'
    return 'never'


def draw(runs: dict[str, 'Run']) -> 'Figure':
    """Draw box AP and mask AP over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, name, title in zip(
        figure.subplots(1, 2), ('bbox_mAP', 'segm_mAP'), ('box AP', 'mask AP')
    ):
        for label, run in runs.items():
            axes.plot(
                [row['at'] * iterations(run) for row in run.val],
                [100 * row[name] for row in run.val],
                marker='.',
                label=label,
            )
        axes.set(title=f'{title} in %', xlabel='iteration')
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..datasets.shape_classes import make_shape_classes
    from ..datasets.shapes import make_shapes
    from ..evaluation.run_log import read_run

    root, data = Path(args.work_dir), Path(args.data_dir)
    classes = make_shape_classes(data / 'shape_classes', num_train=args.class_images)
    shapes = make_shapes(data / 'shapes', num_train=args.images)
    os.environ.update(SHAPE_CLASSES_ROOT=str(classes), SHAPES_ROOT=str(shapes))
    classifier = train('mobilevig_ti_shapes', root / 'classifier', args.epochs)
    start = f'mobilevig://{classifier.resolve()}'
    runs = {}
    for label, options in (
        ('from scratch', []),
        (
            'pretrained',
            [
                'model.backbone.init_cfg.type=Pretrained',
                f'model.backbone.init_cfg.checkpoint={start}',
            ],
        ),
    ):
        work_dir = root / label.replace(' ', '_')
        train('mobilevig_ti_fpn_shapes', work_dir, args.detector_epochs, *options)
        runs[label] = read_run(work_dir)
    for name in ('bbox_mAP', 'segm_mAP'):
        goal = runs['from scratch'].val[-1][name]
        for label, run in runs.items():
            print(
                f'{name}: {label} ends at {100 * run.val[-1][name]:.1f}, and has '
                f'{100 * goal:.1f} after {reached(run, name, goal)}'
            )
    out = Path(args.out or root / 'pretraining.png')
    draw(runs).savefig(out, dpi=110)
    print(f'Curves: {out}')
