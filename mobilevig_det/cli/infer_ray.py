"""Detect objects in millions of images, on one machine or many, with Ray Data."""

import argparse
import copy
import os
import os.path as osp
import sys

from ..errors import UserError
from .arguments import add_inference_arguments, make_parser, positive
from .command import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(
        'Detect objects in millions of images, on one machine or many, '
        'with Ray Data; rows go into Parquet files. Go on with --resume.'
    )
    parser.add_argument(
        'input',
        metavar='INPUT',
        help='a folder of images, a text file with a path a line, or a Parquet file '
        'or folder with a column of paths, or of names and one of bytes; here or at '
        's3://, gs://, hdfs://',
    )
    add_inference_arguments(
        parser,
        'checkpoint file, or an exported detector (.onnx, .xml), at a path that all '
        'machines have',
    )
    parser.add_argument(
        '--out-dir',
        default='work_dirs/infer_ray',
        help='folder for rows/*.parquet that all machines share, or an address as '
        's3://… (default: %(default)s)',
    )
    parser.add_argument(
        '--address',
        help='of a Ray cluster, as HOST:6379, or auto on a machine of one; by default '
        'Ray is started here',
    )
    parser.add_argument(
        '--actors',
        type=positive(int),
        help='models; by default one a GPU, or else a CPU',
    )
    parser.add_argument(
        '--cpus-per-actor',
        type=positive(float),
        help='CPUs to reserve, and threads to use, for each model (default: a bit '
        'less than one, to leave some to Ray)',
    )
    parser.add_argument(
        '--num-gpus',
        type=float,
        help='GPUs for each model, for example 0.5 (default: 1 where there are any)',
    )
    parser.add_argument(
        '--block-size',
        type=positive(int),
        help='images that a worker does at a time, and rows in a file (default: 200, '
        'fewer of few images, more of millions; of Parquet with bytes: a row group)',
    )
    args = parser.parse_args(argv)
    if (args.num_gpus or 0) < 0:
        parser.error('--num-gpus must not be less than 0')
    return args


def need_ray() -> None:
    """Raise a UserError if Ray isn't there."""
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'  # it would report to its makers
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'This needs Ray Data, which cannot be imported ({error}): '
            'pip install "mobilevig_det[ray]"'
        ) from error


def absolute(path: str) -> str:
    return path if '://' in path else osp.abspath(path)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    need_ray()
    from ..classification.config_checks import is_classifier
    from ..config import load_config
    from ..export.exported_detector import SUFFIXES, use_exported
    from ..inference.coco_results import read_test_set
    from ..inference.detection_files import RowFiles
    from ..inference.detection_worker import Job
    from ..inference.detector import find_model, load_detector, prepare
    from ..inference.image_blocks import find_images, left_blocks
    from ..inference.input_files import Skipped
    from ..inference.ray_run import run
    from ..inference.row_settings import settings_of

    config, checkpoint = find_model(args.config, args.checkpoint)
    cfg = load_config(config, args.cfg_options)
    if is_classifier(cfg):
        raise UserError('It is a classifier: use tools/infer.py.')
    images = find_images(args.input, args.block_size, Skipped('infer_ray.py'))
    exported = checkpoint.endswith(SUFFIXES)
    if exported:
        use_exported(cfg, absolute(checkpoint))
    weights = None if exported else absolute(checkpoint)
    prepared = prepare(copy.deepcopy(cfg), args.score_thr)
    # Here first: what doesn't fit is told before a cluster is asked for.
    classes = load_detector(copy.deepcopy(prepared), weights, 'cpu').classes
    category_ids, _ = read_test_set(classes, cfg)
    categories = dict(zip(category_ids, classes))

    files = RowFiles(absolute(args.out_dir))
    settings = settings_of(cfg, checkpoint, categories, args.score_thr)
    files.begin(settings, args.resume)
    blocks = left_blocks(images, files.names())
    job = Job(
        cfg=prepared.pretty_text,
        checkpoint=weights,
        categories=categories,
        score_thr=args.score_thr,
        batch_size=args.batch_size,
        inputs=absolute(args.input),
        out=files.address,
        folder=os.getcwd(),
        must_see=[absolute(path) for path in (args.input, files.path, checkpoint)],
    )
    if blocks:
        run(blocks, job, args.address, args.actors, args.cpus_per_actor, args.num_gpus)
    errors = files.check(images)
    print(
        f'{len(images.names)} images, {errors} of which could not be used.\n'
        f'Model: {checkpoint}\nRows: {files.path}/*.parquet'
    )
    if errors:
        sys.exit('infer_ray.py: the column error of the rows says why.')
