"""Measure the speed and memory of graph steps, backbones, detectors and operators.

By default: the graph step next to its definition, then every size of MobileViG next to
the authors' implementation and to baselines from timm, in inference and training. The
rows of a table are timed in turns, so that a busy machine slows all of them alike.
"""

import argparse
import json
from pathlib import Path

from mobilevig_det.cli.arguments import ARCHS, make_parser
from mobilevig_det.cli.command import command
from mobilevig_det.errors import UserError

SIZES = ARCHS['MobileViG']
SIBLINGS = tuple(
    f'{name}-{arch}'
    for name, archs in ARCHS.items()
    for arch in archs
    if name != 'MobileViG'
)
PARTS = (
    'graph',
    'inference',
    'training',
    'operators',
    'runtimes',
    'loader',
    'targets',
    'evaluation',
    'logging',
    'images',
    'siblings',
    'detector',
)
DEFAULT_PARTS = ('graph', 'inference', 'training')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
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
        'siblings; detector: stock MMDetection next to ours (default: '
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
        help='input sizes as HEIGHTxWIDTH; training takes the last one (default: '
        '224x224 and 800x1216; on a GPU 800x1344 instead, a padded 1333x800)',
    )
    parser.add_argument('--graph-shapes', nargs='+')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--images',
        type=int,
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


def check_args(args: argparse.Namespace) -> None:
    """Set the defaults that the parser can't import, and check sizes and device."""
    import torch

    from .backbones import BASELINES
    from .graph_steps import GRAPH_SHAPES

    if args.baselines is None:
        args.baselines = BASELINES
    args.graph_shapes = args.graph_shapes or GRAPH_SHAPES
    for sizes, example in (
        (args.sizes, '224x224'),
        (args.graph_shapes, GRAPH_SHAPES[0]),
    ):
        for size in sizes:
            numbers = size.split('x')
            if len(numbers) != example.count('x') + 1 or not all(
                n.isdigit() and int(n) for n in numbers
            ):
                raise UserError(f'{size!r} is not a size like {example}.')
    if args.images < 1:
        raise UserError(f'--images {args.images}: at least one image is needed.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch finds no GPU.')


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from . import parts
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
    check_args(args)
    result = dict(machine=describe_machine(args), batch_size=args.batch_size, rows=[])
    for part, measure in parts.PARTS.items():
        if part not in args.parts:
            continue
        for row in measure(args):
            result['rows'].append(row)
            write_json(result, out_dir)  # keep what is measured if the rest is stopped
    save(result, out_dir)
