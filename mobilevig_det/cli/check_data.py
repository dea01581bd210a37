"""Check the COCO-format data sets of a config.

The exit code is 0 if no problem was found, and 1 otherwise.
"""

import argparse
import sys

from ..errors import UserError
from .arguments import make_config_parser
from .command import command

SHOWN = 10  # findings of each kind that are listed without --all


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    parser.add_argument(
        '--splits',
        nargs='+',
        default=['train', 'val', 'test'],
        choices=['train', 'val', 'test'],
        help='Splits to check (default: all that the config has).',
    )
    parser.add_argument(
        '--all',
        action='store_true',
        help=f'List every finding, not only the first {SHOWN} of each kind.',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='Read only the beginning and the end of each image file, as '
        'mobilevig_det train does, instead of decoding it.',
    )
    parser.add_argument(
        '--workers', type=int, help='Number of threads that read images.'
    )
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..config import load_config
    from ..datasets.data_check import check_data
    from ..datasets.data_paths import check_data_paths
    from ..datasets.image_file import hush_opencv

    cfg = load_config(args.config, args.cfg_options)
    check_data_paths(cfg, args.splits)
    hush_opencv()
    report = check_data(cfg, args.splits, decode=not args.quick, workers=args.workers)
    for line in report.skipped:
        print(f'[not checked] {line}')
    if not report.counts and not report.findings:
        raise UserError(
            f'{cfg.filename} has no COCO-format data set in '
            f'{", ".join(args.splits)}: nothing to check.'
        )

    for (stops, file, kind), findings in report.by_kind().items():
        print(
            f'[{"STOPS TRAINING" if stops else "tolerated"}] {file}: '
            f'{kind}: {len(findings)}'
        )
        shown = findings if args.all else findings[:SHOWN]
        for finding in shown:
            text = ': '.join(filter(None, (finding.record, finding.detail)))
            if text:
                print(f'    {text}')
        if len(findings) > len(shown):
            print(f'    … and {len(findings) - len(shown)} more (--all)')
    for line in report.counts:
        print(line)
    stopping = len(report.stopping)
    tolerated = len(report.findings) - stopping
    if report.findings:
        print(f'{stopping} that stop training, {tolerated} tolerated as COCO tools do.')
        sys.exit(1)
    print('Nothing found.')
