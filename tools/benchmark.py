#!/usr/bin/env python
"""Time the graph step, the backbones beside their rivals, detectors, operators,
exported models.

With no arguments: the graph step against its definition, then every size of
MobileViG beside the authors' algorithm and what one would pick instead
(through timm, if it is installed), inference and training. Everything of one
table runs in turns, so that a busy machine slows all of it alike.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    GRAPH_SHAPES,
    RIVALS,
    SIBLINGS,
    detector_rows,
    evaluation_rows,
    graph_rows,
    image_rows,
    inference_rows,
    loader_rows,
    logging_rows,
    machine,
    operator_rows,
    runtime_rows,
    save,
    sibling_rows,
    target_rows,
    training_rows,
    write,
)
from mobilevig_det.cli.common import command  # first: names what misfits
from mobilevig_det.errors import UserError

import torch

ARCHS = ('ti', 's', 'm', 'b')
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time the graph step, the backbones and detectors'
    )
    parser.add_argument(
        '--parts',
        nargs='*',
        default=PARTS[:3],
        metavar='PART',
        help=f'of {", ".join(PARTS)}, with spaces or commas between. operators: '
        "mmcv's, beside the compiled ones where mmcv has them; runtimes: exported "
        "models beside PyTorch; loader, targets: MMDetection's beside ours; "
        'evaluation: from predictions to AP; logging: early and late in a training; '
        'images: from image files to rows; '
        "siblings: the graph steps of MobileViG's siblings; "
        'detector: MMDetection as it is beside ours',
    )
    parser.add_argument(
        '--detector', action='store_true', help='also the part detector'
    )
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=ARCHS)
    parser.add_argument(
        '--siblings',
        nargs='*',
        choices=(*SIBLINGS, 'all'),
        default=(),
        metavar='NAME',
        help=f'also these backbones: all, or of {", ".join(SIBLINGS)}',
    )
    parser.add_argument('--rivals', nargs='*', default=RIVALS, help='models of timm')
    parser.add_argument(
        '--sizes',
        nargs='+',
        help='heights x widths; training takes the last one. Defaults to 224x224 and '
        '800x1216, on a GPU 800x1344: an image of 1333x800, padded',
    )
    parser.add_argument('--graph-shapes', nargs='+', default=GRAPH_SHAPES)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--images',
        type=int,
        default=5000,
        help='of the evaluation, 100 detections each',
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--threads', type=int, help='of the CPU')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train under autocast: backbones bfloat16, detectors float16',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help="reuse freed memory, as this project's tools do on CPUs",
    )
    parser.add_argument('--out-dir', default='work_dirs/benchmark')
    parser.add_argument('--from-file', help='draw a benchmark.json again, run nothing')
    args = parser.parse_args(argv)
    if args.sizes is None:
        args.sizes = ['224x224', '800x1216' if args.device == 'cpu' else '800x1344']
    args.parts = [part for given in args.parts for part in given.split(',') if part]
    for part in args.parts:
        if part not in PARTS:
            parser.error(f'--parts: {part!r} is none of {", ".join(PARTS)}')
    if 'all' in args.siblings:
        args.siblings = tuple(SIBLINGS)
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
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
        raise UserError(f'--images {args.images}: at least one is needed.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch sees no GPU here.')
    result = dict(machine=machine(args), batch_size=args.batch_size, rows=[])
    measures = dict(
        graph=graph_rows,
        inference=inference_rows,
        training=training_rows,
        operators=operator_rows,
        runtimes=runtime_rows,
        siblings=sibling_rows,
        evaluation=evaluation_rows,
        logging=logging_rows,
        images=image_rows,
        loader=loader_rows,
        targets=target_rows,
        detector=detector_rows,
    )
    if args.detector:
        args.parts = [*args.parts, 'detector']
    for rows in [measures[part] for part in PARTS if part in args.parts]:
        # What is done is kept if the rest is stopped.
        for row in rows(args):
            result['rows'].append(row)
            write(result, out_dir)
    save(result, out_dir)


if __name__ == '__main__':
    main()
