"""Pretrain on generated classes, and train the demo's detector with and without it.

Both AP curves are drawn. Run it again to resume after an interruption.
"""

import argparse
import os
from pathlib import Path

from .arguments import make_parser
from .command import command
from .demo import run


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
    length = [f'train_cfg.max_epochs={epochs}', f'max_epochs={epochs}']
    options = (*length, f'param_scheduler.1.T_max={epochs}', *options)
    where = '--work-dir', str(work_dir)
    run('train', config, *where, *resume, '--cfg-options', *options)
    return checkpoint


@command(parse_args, 'the same command resumes from the last epoch')
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..datasets.shape_classes import make_shape_classes
    from ..datasets.shapes import make_shapes

    root, data = Path(args.work_dir), Path(args.data_dir)
    classes = make_shape_classes(data / 'shape_classes', num_train=args.class_images)
    shapes = make_shapes(data / 'shapes', num_train=args.images)
    os.environ.update(SHAPE_CLASSES_ROOT=str(classes), SHAPES_ROOT=str(shapes))
    classifier = train('mobilevig_ti_shapes', root / 'classifier', args.epochs)
    detector = 'mobilevig_ti_fpn_shapes'
    from_scratch, pretrained = root / 'from_scratch', root / 'pretrained'
    train(detector, from_scratch, args.detector_epochs)
    train(
        detector,
        pretrained,
        args.detector_epochs,
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint=mobilevig://{classifier.resolve()}',
    )
    out = args.out or str(root / 'pretraining.png')
    run('plot-run', str(from_scratch), str(pretrained), '--out', out)
