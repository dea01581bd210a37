"""Generate a small data set of geometric shapes, for detection or classification."""

import argparse

from ..errors import UserError
from .arguments import make_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    parser.add_argument(
        '--task',
        choices=['detection', 'classification'],
        default='detection',
        help='Task of the data set: detection writes annotations in COCO format, '
        'classification a folder for each of ten classes (default: %(default)s).',
    )
    for flag, kind, text in (
        ('out-dir', str, 'Folder to write to (data/shapes, data/shape_classes).'),
        ('num-train', int, 'Number of training images (600, 3000).'),
        ('num-val', int, 'Number of held-out images (100, 500).'),
        ('size', int, 'Height and width of the images, in pixels (128, 64).'),
        ('seed', int, 'Seed; the same seed gives the same files (0).'),
        (
            'num-classes',
            int,
            'Number of classes for detection, at most 5: circle, square, triangle, '
            'ring, cross (3).',
        ),
    ):
        parser.add_argument(f'--{flag}', type=kind, help=text)
    parser.epilog = (
        'Defaults are in parentheses: for detection, then for classification.'
    )
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
        raise UserError(
            '--num-classes cannot be changed: --task classification has 10 classes.'
        )
    else:
        root = make_shape_classes(**given)
    print(f'The data set is in {root}.')
