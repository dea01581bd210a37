"""Measure every published figure again and report which are reproduced."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevig_det.cli.arguments import ARCHS, add_cfg_options, make_parser, positive
from mobilevig_det.cli.command import command
from mobilevig_det.errors import UserError

if TYPE_CHECKING:
    from .figures import Figure

SIZES = ARCHS['MobileViG']
FAMILIES = tuple(name.lower() for name in ARCHS)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's arguments."""
    parser = make_parser(
        'Measure every published figure again. Exit code: 1 if a figure is missed, 2 '
        'if one cannot be checked, else 0.'
    )
    parser.add_argument(
        '--what',
        choices=('configs', 'imagenet', 'coco', 'all'),
        default='all',
        help='configs needs no data; imagenet and coco read the data in IMAGENET_ROOT '
        'and COCO_ROOT',
    )
    parser.add_argument(
        '--arch', nargs='+', choices=SIZES, default=SIZES, help='only these sizes'
    )
    parser.add_argument(
        '--family',
        nargs='+',
        choices=FAMILIES,
        default=FAMILIES,
        help='only these backbones',
    )
    parser.add_argument(
        '--images',
        type=positive(int),
        metavar='N',
        help='measure on a random subset of N images and report a 95%% interval',
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='NAME=FILE',
        help='checkpoints that you have; the names are those of mobilevig://NAME',
    )
    parser.add_argument(
        '--repository',
        metavar='URL',
        help="a copy of the authors' files, laid out as their own repository",
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:INDEX')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/reproduce',
        help='folder for reproduce.json and reproduce.md, from which a later run '
        'resumes',
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def given_files(pairs: list[str]) -> dict[str, str]:
    """Parse ``NAME=FILE`` pairs into a dict."""
    from mobilevig_det.checkpoints.weights import PUBLISHED

    files = {}
    for pair in pairs:
        name, _, path = pair.partition('=')
        if name not in PUBLISHED or not path:
            raise UserError(
                f'--checkpoint takes NAME=FILE, with a name of {", ".join(PUBLISHED)}, '
                f'not {pair!r}.'
            )
        files[name] = path
    return files


@command(parse_args)
def main(args: argparse.Namespace, figures: 'Sequence[Figure] | None' = None) -> None:
    """Run the command.

    Args:
        args (Namespace): The flags.
        figures (Sequence[Figure], optional): The published figures, by default all.
    """
    from mmengine.logging import MMLogger

    from .figures import FIGURES, exit_code
    from .run import reproduce

    # Warnings only, to keep the progress bar intact.
    MMLogger.get_instance('reproduce', log_level='WARNING')
    args.checkpoint = given_files(args.checkpoint)
    chosen = [
        figure
        for figure in figures or FIGURES
        if args.what in (figure.what, 'all')
        and figure.arch in args.arch
        and figure.family in args.family
    ]
    if not chosen:
        raise UserError(
            f'There is nothing to measure: --family {" ".join(args.family)} has no '
            f'size {" ".join(args.arch)}, or no detector of that size is published.'
        )
    verdicts = reproduce(chosen, args)
    print(Path(args.out_dir, 'reproduce.md').read_text(encoding='utf-8'))
    print(f'Reports: {args.out_dir}/reproduce.json and {args.out_dir}/reproduce.md')
    sys.exit(exit_code(verdicts))
