"""Detect objects in images and videos.

With a classifier's config, print the five most probable classes of each image instead.
The exit code is 0 if every input could be used.
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
    """Parse the arguments of the command, by default those of the program."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='IMAGES',
        help='Images to process: image files, videos, folders, patterns such as '
        '"a/**/*.jpg", lists of paths (.txt, .lst, or - for standard input), tar '
        'shards (.tar), or Parquet files with a column of paths, or with columns of '
        'names and of image bytes. Folders, lists and Parquet files may also be at '
        's3://, gs:// or hdfs://.',
    )
    parser.add_argument(
        '--config',
        help='Config file: a path, or the name of a config of this package (default: '
        'the config in the folder of the checkpoint).',
    )
    parser.add_argument(
        '--checkpoint',
        help='Checkpoint file, or an exported detector (.onnx, .xml). If neither '
        '--config nor --checkpoint is given, the model of `make demo` is used.',
    )
    parser.add_argument(
        '--score-thr',
        type=_score,
        default=0.3,
        help='Omit detections with a lower score (default: %(default)s). To compute '
        'the AP of the result, use 0.',
    )
    parser.add_argument(
        '--batch-size',
        type=positive(int),
        help='Number of images in a batch, which are padded to the same size (default: '
        'as many as together have the pixels of one image of 800x1344, at most 8).',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='Resume an earlier run that wrote to the same --out-dir.',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--executor',
        choices=EXECUTORS,
        help='Where to run: in this process (local), in the processes that torchrun '
        'or Slurm started (torchrun), or on a Ray cluster, which may be this machine '
        'alone (ray). The default is local, or torchrun if --launcher is given.',
    )
    parser.add_argument(
        '--out-dir',
        help='Write the result, the rows (rows/) and the drawings (vis/) to this '
        'folder. With Ray, all machines must share it, or it must be an address such '
        f'as s3://bucket/folder (default: {OUT_DIRS["local"]}; with Ray '
        f'{OUT_DIRS["ray"]}).',
    )
    parser.add_argument(
        '--device',
        help='Device to run on, for example cuda:1 or cpu (default: a GPU if there is '
        'one).',
    )
    parser.add_argument(
        '--no-save-vis',
        action='store_true',
        help='Save no drawings. With Ray, none are saved in any case.',
    )
    parser.add_argument(
        '--format',
        choices=['coco', 'parquet', 'rows'],
        help='Format of the result: predictions.json (coco), a folder '
        'predictions.parquet/ (parquet), or only the rows/ from which both are made '
        '(default: coco; with Ray rows).',
    )
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        help='Launcher that started the processes of a distributed job.',
    )
    ray = parser.add_argument_group('for --executor ray')
    ray.add_argument(
        '--address',
        help='Address of a Ray cluster, such as HOST:6379, or auto on a machine of the '
        'cluster (default: start Ray on this machine).',
    )
    ray.add_argument(
        '--actors',
        type=positive(int),
        help='Number of models that run in parallel (default: one per GPU, or one per '
        'CPU if there are no GPUs).',
    )
    ray.add_argument(
        '--cpus-per-actor',
        type=positive(float),
        help='Number of CPUs to reserve, and of threads to use, for each model '
        '(default: slightly less than one, which leaves some to Ray).',
    )
    ray.add_argument(
        '--num-gpus',
        type=float,
        help='Number of GPUs to reserve for each model, for example 0.5 (default: 1 if '
        'there are GPUs).',
    )
    ray.add_argument(
        '--block-size',
        type=positive(int),
        help='Number of images that a worker processes at a time, and of rows in a '
        'file (default: 200, fewer for few images, more for millions; one row group '
        'for Parquet files with image bytes).',
    )
    args = parser.parse_intermixed_args(argv)
    _complete(args, parser.error)
    return args


def _complete(args: argparse.Namespace, error: Callable[[str], NoReturn]) -> None:
    """Set defaults that depend on the executor, and reject flags of another one."""
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
