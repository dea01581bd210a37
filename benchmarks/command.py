"""Measure the speed and memory of graph steps, backbones, detectors and operators.

By default, the graph step is compared with its definition, and then every size of
MobileViG with the authors' implementation and with baselines from timm, in inference
and training. The rows of a table are timed in turns, so that a busy machine slows all
of them alike.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from mobilevig_det.cli.arguments import ARCHS, make_parser, positive
from mobilevig_det.cli.command import command
from mobilevig_det.errors import UserError

SIZES = ARCHS['MobileViG']
SIBLINGS = tuple(
    f'{name}-{arch}'
    for name, archs in ARCHS.items()
    for arch in archs
    if name != 'MobileViG'
)
# Names of the parts in the order in which they run, and functions that take the
# arguments of the command and yield the rows of a table.
PARTS = {
    'graph': 'benchmarks.graph_steps:graph_rows',
    'inference': 'benchmarks.backbones:inference_rows',
    'training': 'benchmarks.backbones:training_rows',
    'operators': 'benchmarks.operators:operator_rows',
    'runtimes': 'benchmarks.runtimes:runtime_rows',
    'loader': 'benchmarks.training_overhead:loader_rows',
    'targets': 'benchmarks.training_overhead:target_rows',
    'evaluation': 'benchmarks.evaluation:evaluation_rows',
    'logging': 'benchmarks.training_overhead:logging_rows',
    'images': 'benchmarks.images:image_rows',
    'siblings': 'benchmarks.graph_steps:sibling_rows',
    'detector': 'benchmarks.detectors:detector_rows',
    'paper': 'benchmarks.paper:paper_rows',
}
DEFAULT_PARTS = ('graph', 'inference', 'training')
GRAPH_SHAPES = ('2x400x25x42', '2x464x25x42', '2x400x50x84', '2x100x100x168')


def size_like(example: str) -> Callable[[str], str]:
    """Return an argparse type for sizes with as many positive numbers as an example."""

    def size(text: str) -> str:
        if not re.fullmatch(re.sub(r'\d+', r'[1-9]\\d*', example), text):
            raise argparse.ArgumentTypeError(f'{text!r} is not a size like {example}')
        return text

    return size


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(
        'Measure the speed and memory of backbones, detectors, operators and exported '
        'models'
    )
    parser.add_argument(
        '--parts',
        nargs='*',
        default=DEFAULT_PARTS,
        metavar='PART',
        help=f'Parts to measure, separated by spaces or commas: {", ".join(PARTS)}. '
        "operators compares our operators with mmcv's compiled ones, if it has them; "
        'runtimes compares exported models with PyTorch; loader, targets and detector '
        'compare stock MMDetection with our data loading, mask targets and detectors; '
        'evaluation measures the time from predictions to AP; logging compares early '
        'and late iterations of a run; images measures the time from image files to '
        "rows; siblings measures the graph steps of MobileViG's siblings; paper "
        "measures the models of the paper's comparison in three runtimes, next to "
        f'published figures (default: {", ".join(DEFAULT_PARTS)}).',
    )
    parser.add_argument(
        '--detector', action='store_true', help='Also measure the part detector.'
    )
    parser.add_argument(
        '--archs',
        nargs='+',
        choices=SIZES,
        default=SIZES,
        help='Sizes of MobileViG to measure (default: all).',
    )
    parser.add_argument(
        '--siblings',
        nargs='*',
        choices=(*SIBLINGS, 'all'),
        default=(),
        metavar='NAME',
        help=f'Also measure these backbones: all, or some of {", ".join(SIBLINGS)}.',
    )
    parser.add_argument(
        '--baselines',
        '--rivals',
        nargs='*',
        help='Models of timm to compare with (default: a selection). --rivals is the '
        'old name of this flag.',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=size_like('224x224'),
        help='Input sizes as HEIGHTxWIDTH, of which training uses the last one '
        '(default: 224x224 and 800x1216; on a GPU, 224x224 and 800x1344).',
    )
    parser.add_argument(
        '--graph-shapes',
        nargs='+',
        type=size_like(GRAPH_SHAPES[0]),
        default=GRAPH_SHAPES,
        help='Shapes of the feature maps for the graph step, as BxCxHxW (default: '
        f'{" ".join(GRAPH_SHAPES)}).',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        help='Number of images in a batch (default: %(default)s).',
    )
    parser.add_argument(
        '--images',
        type=positive(int),
        default=5000,
        help='Number of images of the part evaluation, with 100 detections each '
        '(default: %(default)s).',
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=5,
        help='Number of times that each row is timed (default: %(default)s).',
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        default='cpu',
        help='Device to measure on (default: %(default)s).',
    )
    parser.add_argument(
        '--threads', type=int, help="Number of CPU threads (default: PyTorch's)."
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='Train under autocast, backbones in bfloat16 and detectors in float16.',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help="Reuse freed memory, as this project's tools do on CPUs.",
    )
    parser.add_argument(
        '--out-dir',
        default='work_dirs/benchmark',
        help='Write the table and the plots to this folder (default: %(default)s).',
    )
    parser.add_argument(
        '--from-file',
        help='Measure nothing, and write the table and plots of this benchmark.json.',
    )
    args = parser.parse_args(argv)
    if args.sizes is None:
        args.sizes = ['224x224', '800x1216' if args.device == 'cpu' else '800x1344']
    args.parts = [part for given in args.parts for part in given.split(',') if part]
    for part in args.parts:
        if part not in PARTS:
            parser.error(f'--parts: {part!r} is none of {", ".join(PARTS)}')
    if args.detector:
        args.parts.append('detector')
    if 'all' in args.siblings:
        args.siblings = SIBLINGS
    return args


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from mobilevig_det.config import check_device

    from .machine import describe_machine
    from .report import save, write_json

    out_dir = Path(args.out_dir)
    if args.from_file:
        try:
            result = json.loads(Path(args.from_file).read_text())
            result['rows'][0]['part']
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f'{args.from_file} is not a benchmark.json that '
                f'this tool wrote: {error!r}.'
            ) from error
        save(result, out_dir)
        return
    check_device(args.device)
    result = dict(machine=describe_machine(args), batch_size=args.batch_size, rows=[])
    for part in [part for part in PARTS if part in args.parts]:
        for row in resolve_name(PARTS[part])(args):
            result['rows'].append(row)
            write_json(result, out_dir)  # keep the rows if the command is stopped
    save(result, out_dir)
