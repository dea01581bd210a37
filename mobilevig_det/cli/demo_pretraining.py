"""Train the demo's detector from scratch and from pretrained weights.

The backbone is pretrained as a classifier of generated images, and the AP curves of
both detectors are plotted. After an interruption, run the command again to resume.
"""

import argparse
import os
from pathlib import Path

from .arguments import make_parser
from .command import command
from .demo import run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    for flag, default, text in (
        ('work-dir', 'work_dirs/demo_pretraining', 'Write the results to this folder'),
        ('data-dir', 'data', 'Write the generated images to this folder'),
        ('class-images', 3000, 'Number of training images of the classifier'),
        ('images', 600, 'Number of training images of the detectors'),
        ('epochs', 12, 'Number of epochs of pretraining'),
        ('detector-epochs', 5, 'Number of epochs of each detector'),
    ):
        parser.add_argument(
            f'--{flag}',
            type=type(default),
            default=default,
            help=f'{text} (default: %(default)s).',
        )
    parser.add_argument(
        '--out', help='Image file to write (default: WORK_DIR/pretraining.png).'
    )
    return parser.parse_args(argv)


def train(config: str, work_dir: Path, epochs: int, *options: str) -> Path:
    """Train, or resume training, unless the last checkpoint exists already.

    Args:
        config (str): Name of the config.
        work_dir (Path): Folder for checkpoints and logs.
        epochs (int): Number of epochs.
        *options (str): Further settings of the config, as ``KEY=VALUE``.

    Returns:
        Path: The last checkpoint.
    """
    checkpoint = work_dir / f'epoch_{epochs}.pth'
    if checkpoint.is_file():
        print(f'{checkpoint} exists already.')
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
