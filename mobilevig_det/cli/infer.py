"""Detect objects in images, folders of them, and videos; or classify images."""

import argparse
import sys

from .arguments import add_inference_arguments, add_launcher, make_parser
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(
        "Detect objects in images, folders of them, and videos; with a classifier's "
        'config, tell the five best classes of each image. The exit code is 0 if all '
        'of them could be used.'
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='IMAGES',
        help='image files, videos, folders, or patterns such as "a/**/*.jpg"; lists '
        'of paths (.txt, .lst, or - for a pipe) and tar shards (.tar)',
    )
    add_inference_arguments(parser, 'checkpoint file')
    parser.add_argument(
        '--out-dir',
        default='work_dirs/infer',
        help='folder for the result, rows/ and vis/ (default: %(default)s)',
    )
    parser.add_argument(
        '--device', help='for example cuda:1 or cpu; by default a GPU if there is one'
    )
    parser.add_argument('--no-save-vis', action='store_true', help='draw no pictures')
    parser.add_argument(
        '--format',
        choices=['coco', 'parquet'],
        default='coco',
        help='of the result: predictions.json, or a folder predictions.parquet/',
    )
    add_launcher(parser, 'job launcher, for several processes')
    return parser.parse_intermixed_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from .infer_run import infer

    try:
        infer(args)
    except KeyboardInterrupt:
        print('infer.py: stopped; --resume goes on.', file=sys.stderr)
        sys.exit(130)  # as a shell has it
