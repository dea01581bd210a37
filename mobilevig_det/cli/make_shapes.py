"""Make the shapes data sets: COCO's format or image folders, no download."""

import argparse
from typing import Any

from ..errors import UserError
from .arguments import make_parser
from .command import command

DEFAULTS = dict(
    detection=dict(out_dir='data/shapes', num_train=600, num_val=100, size=128),
    classification=dict(
        out_dir='data/shape_classes', num_train=3000, num_val=500, size=64
    ),
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--task',
        choices=list(DEFAULTS),
        default='detection',
        help="COCO's format, or a folder for each of ten classes "
        '(default: %(default)s)',
    )
    for flag, kind, text in (
        ('out-dir', str, 'folder to write to'),
        ('num-train', int, 'training images'),
        ('num-val', int, 'held-out images'),
        ('size', int, 'height and width, in pixels'),
    ):
        key = flag.replace('-', '_')
        defaults = ', '.join(f'{task} {value[key]}' for task, value in DEFAULTS.items())
        parser.add_argument(
            f'--{flag}', type=kind, help=f'{text} (default: {defaults})'
        )
    parser.add_argument(
        '--seed', type=int, default=0, help='the same seed, the same files'
    )
    parser.add_argument(
        '--num-classes',
        type=int,
        help='of detection, up to 5: circle, square, triangle (default: these 3), '
        'ring, cross',
    )
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..datasets.shape_classes import make_shape_classes
    from ..datasets.shapes import make_shapes

    settings: dict[str, Any] = {
        key: value if getattr(args, key) is None else getattr(args, key)
        for key, value in DEFAULTS[args.task].items()
    }
    settings.update(root=settings.pop('out_dir'), seed=args.seed)
    if args.task == 'classification':
        if args.num_classes not in (None, 10):
            raise UserError('--num-classes: --task classification has 10 classes.')
        root = make_shape_classes(**settings)
    else:
        num_classes = 3 if args.num_classes is None else args.num_classes
        root = make_shapes(**settings, num_classes=num_classes)
    print(f'The data set is in {root}.')
