"""Pretrain on generated classes, then train the demo's detector from there and
from nothing, and draw both AP curves. Run again, it goes on where it was."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.cli.common import command
from mobilevig_det.datasets.shape_classes import make_shape_classes
from mobilevig_det.datasets.shapes import make_shapes
from mobilevig_det.errors import UserError
from mobilevig_det.evaluation.run_log import Run, read_run

from matplotlib.figure import Figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo_pretraining')
    parser.add_argument('--data-dir', default='data', help='for the generated images')
    parser.add_argument('--class-images', type=int, default=3000, help='to pretrain on')
    parser.add_argument('--images', type=int, default=600, help='to detect in')
    parser.add_argument('--epochs', type=int, default=12, help='of pretraining')
    parser.add_argument('--detector-epochs', type=int, default=5)
    parser.add_argument('--out', help='picture (default: WORK_DIR/pretraining.png)')
    return parser.parse_args(argv)


def train(config: str, work_dir: Path, epochs: int, *options: str) -> Path:
    """Run tools/train.py unless it has been, and return its last checkpoint."""
    checkpoint = work_dir / f'epoch_{epochs}.pth'
    if checkpoint.is_file():
        print(f'{checkpoint} is there already.')
        return checkpoint
    resume = ['--resume'] if list(work_dir.glob('epoch_*.pth')) else []
    command_line = [
        sys.executable,
        '-m',
        'mobilevig_det',
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
            f'tools/train.py failed (exit code {code.returncode}), see above.'
        )
    return checkpoint


def iterations(run: Run) -> float:
    """Iterations an epoch."""
    return run.train[-1]['step'] / run.train[-1]['at']


def reached(run: Run, name: str, value: float) -> str:
    """After how many iterations an AP was reached."""
    for row in run.val:
        if row.get(name, -1) >= value:
            return f'{row["at"] * iterations(run):.0f} iterations'
    return 'never'


def draw(runs: dict[str, Run]) -> Figure:
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


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    root, data = Path(args.work_dir), Path(args.data_dir)
    classes = make_shape_classes(data / 'shape_classes', num_train=args.class_images)
    shapes = make_shapes(data / 'shapes', num_train=args.images)
    os.environ.update(SHAPE_CLASSES_ROOT=str(classes), SHAPES_ROOT=str(shapes))
    classifier = train('mobilevig_ti_shapes', root / 'classifier', args.epochs)
    start = f'mobilevig://{classifier.resolve()}'
    runs = {}
    for label, options in (
        ('from nothing', []),
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
        goal = runs['from nothing'].val[-1][name]
        for label, run in runs.items():
            print(
                f'{name}: {label} ends at {100 * run.val[-1][name]:.1f}, and has '
                f'{100 * goal:.1f} after {reached(run, name, goal)}'
            )
    out = Path(args.out or root / 'pretraining.png')
    draw(runs).savefig(out, dpi=110)
    print(f'Curves: {out}')
