"""Detect objects in images, folders of them, and videos.

With a classifier's config, tell the five best classes of each image. The exit code is 0
if all of them could be used.
"""

import argparse
from collections.abc import Callable
from typing import NoReturn

from .arguments import LAUNCHERS, add_cfg_options, make_parser, positive
from .command import command, program_name

EXECUTORS = ('local', 'torchrun', 'ray')
OUT_DIRS = {'local': 'work_dirs/infer', 'ray': 'work_dirs/infer_ray'}


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError('must be between 0 and 1')
    return value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='IMAGES',
        help='image files, videos, folders, or patterns such as "a/**/*.jpg"; lists '
        'of paths (.txt, .lst, or - for a pipe), tar shards (.tar), and Parquet with '
        'a column of paths, or of names and one of bytes; folders, lists and Parquet '
        'also at s3://, gs://, hdfs://',
    )
    parser.add_argument(
        '--config',
        help='config file: a path, or the name of one of ours; by default '
        'the one in the folder of the checkpoint',
    )
    parser.add_argument(
        '--checkpoint',
        help='checkpoint file, or an exported detector (.onnx, .xml); if neither is '
        'given, the run of `make demo`',
    )
    parser.add_argument(
        '--score-thr',
        type=_score,
        default=0.3,
        help='leave out detections with a lower score (default: %(default)s); to '
        'compute AP, use 0',
    )
    parser.add_argument(
        '--batch-size',
        type=positive(int),
        help='images in a batch; they are padded to one size (default: as many as have '
        'the pixels of one image of 800x1344, at most 8)',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='resume an earlier run that wrote into the same --out-dir',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--executor',
        choices=EXECUTORS,
        help='local: this process; torchrun: the processes that torchrun or Slurm has '
        'started; ray: the machines of a Ray cluster, or this one',
    )
    parser.add_argument(
        '--out-dir',
        help='folder for the result, rows/ and vis/; with Ray one that all machines '
        f'share, or an address as s3://… (default: {OUT_DIRS["local"]}; with Ray '
        f'{OUT_DIRS["ray"]})',
    )
    parser.add_argument(
        '--device', help='for example cuda:1 or cpu; by default a GPU if there is one'
    )
    parser.add_argument(
        '--no-save-vis', action='store_true', help='draw nothing; Ray never draws'
    )
    parser.add_argument(
        '--format',
        choices=['coco', 'parquet', 'rows'],
        help='of the result: predictions.json, a folder predictions.parquet/, or only '
        'the rows/ that both are made of (default: coco; with Ray rows)',
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, help='which launcher started the processes'
    )
    ray = parser.add_argument_group('for --executor ray')
    ray.add_argument(
        '--address',
        help='of a Ray cluster, as HOST:6379, or auto on a machine of one; by default '
        'Ray is started here',
    )
    ray.add_argument(
        '--actors',
        type=positive(int),
        help='models; by default one a GPU, or else a CPU',
    )
    ray.add_argument(
        '--cpus-per-actor',
        type=positive(float),
        help='CPUs to reserve, and threads to use, for each model (default: a bit '
        'less than one, to leave some to Ray)',
    )
    ray.add_argument(
        '--num-gpus',
        type=float,
        help='GPUs for each model, for example 0.5 (default: 1 where there are any)',
    )
    ray.add_argument(
        '--block-size',
        type=positive(int),
        help='images that a worker does at a time, and rows in a file (default: 200, '
        'fewer of few images, more of millions; of Parquet with bytes: a row group)',
    )
    args = parser.parse_intermixed_args(argv)
    _complete(args, parser.error)
    return args


def _complete(args: argparse.Namespace, error: Callable[[str], NoReturn]) -> None:
    """Set the defaults that depend on the executor, and check what doesn't fit it."""
    launched = args.launcher not in (None, 'none')
    if args.executor is None:
        args.executor = 'torchrun' if launched else 'local'
    on_ray = args.executor == 'ray'
    if on_ray and launched:
        error('--launcher is for --executor torchrun')
    if args.executor == 'torchrun' and not launched:
        args.launcher = 'pytorch'
    args.launcher = args.launcher or 'none'
    args.out_dir = args.out_dir or OUT_DIRS['ray' if on_ray else 'local']
    args.format = args.format or ('rows' if on_ray else 'coco')
    for name in ('address', 'actors', 'cpus_per_actor', 'num_gpus', 'block_size'):
        if not on_ray and getattr(args, name) is not None:
            error(f'--{name.replace("_", "-")} is for --executor ray')
    if (args.num_gpus or 0) < 0:
        error('--num-gpus must not be less than 0')


@command(parse_args, '--resume resumes the run')
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from ..inference.run import predict

    predict(args, program_name())
