"""Measure the speed and memory of graph steps, backbones, detectors and operators.

By default: the graph step next to its definition, then every size of MobileViG next to
the authors' implementation and to baselines from timm, in inference and training. The
rows of a table are timed in turns, so that a busy machine slows all of them alike.
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
# In the order in which they run: names, and functions that take the arguments of the
# command and yield the rows of a table.
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
    """Return an argument type: as many positive numbers as the example has."""

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
        help=f'what to measure, separated by spaces or commas: {", ".join(PARTS)}. '
        "operators: mmcv's, next to its compiled ones if it has them; runtimes: "
        "exported models next to PyTorch; loader, targets: MMDetection's next to ours; "
        'evaluation: from predictions to AP; logging: early and late in a run; '
        "images: from image files to rows; siblings: the graph steps of MobileViG's "
        'siblings; detector: stock MMDetection next to ours; paper: the models of the '
        "paper's comparison, with published figures, in three runtimes (default: "
        f'{", ".join(DEFAULT_PARTS)})',
    )
    parser.add_argument(
        '--detector', action='store_true', help='also measure the part detector'
    )
    parser.add_argument('--archs', nargs='+', choices=SIZES, default=SIZES)
    parser.add_argument(
        '--siblings',
        nargs='*',
        choices=(*SIBLINGS, 'all'),
        default=(),
        metavar='NAME',
        help=f'also measure these backbones: all, or of {", ".join(SIBLINGS)}',
    )
    parser.add_argument(
        '--baselines',
        '--rivals',
        nargs='*',
        help='models of timm to compare with (--rivals is the old name)',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=size_like('224x224'),
        help='input sizes as HEIGHTxWIDTH; training takes the last one (default: '
        '224x224 and 800x1216; on a GPU 800x1344 instead, a padded 1333x800)',
    )
    parser.add_argument(
        '--graph-shapes',
        nargs='+',
        type=size_like(GRAPH_SHAPES[0]),
        default=GRAPH_SHAPES,
    )
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--images',
        type=positive(int),
        default=5000,
        help='number of images of the evaluation, with 100 detections each',
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--threads', type=int, help='number of threads on the CPU')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train under autocast: backbones in bfloat16, detectors in float16',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help="reuse freed memory, as this project's tools do on CPUs",
    )
    parser.add_argument('--out-dir', default='work_dirs/benchmark')
    parser.add_argument(
        '--from-file', help='write the table and plots of a benchmark.json again'
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
            write_json(result, out_dir)  # keep what is measured if the rest is stopped
    save(result, out_dir)
