"""Make the shapes data sets: COCO's format or image folders, no download."""

import argparse

from ..errors import UserError
from .arguments import make_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        '--task',
        choices=['detection', 'classification'],
        default='detection',
        help="COCO's format, or a folder for each of ten classes "
        '(default: %(default)s)',
    )
    for flag, kind, text in (
        ('out-dir', str, 'folder to write to (data/shapes, data/shape_classes)'),
        ('num-train', int, 'training images (600, 3000)'),
        ('num-val', int, 'held-out images (100, 500)'),
        ('size', int, 'height and width, in pixels (128, 64)'),
        ('seed', int, 'the same seed, the same files (0)'),
        (
            'num-classes',
            int,
            'of detection, up to 5: circle, square, triangle, ring, cross (3)',
        ),
    ):
        parser.add_argument(f'--{flag}', type=kind, help=text)
    parser.epilog = 'In parentheses: defaults for detection, for classification.'
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..datasets.shape_classes import make_shape_classes
    from ..datasets.shapes import make_shapes

    given = {name: value for name, value in vars(args).items() if value is not None}
    if 'out_dir' in given:
        given['root'] = given.pop('out_dir')
    if given.pop('task') == 'detection':
        root = make_shapes(**given)
    elif given.pop('num_classes', 10) != 10:
        raise UserError('--num-classes: --task classification has 10 classes.')
    else:
        root = make_shape_classes(**given)
    print(f'The data set is in {root}.')
