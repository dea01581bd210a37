#!/usr/bin/env python
"""Detect objects in millions of images, on one machine or many, with Ray Data."""

import argparse
import os
import os.path as osp

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.apis.classifiers import is_classifier
from mobilevig_det.apis.cli import add_cfg_options, command, load_config
from mobilevig_det.apis.detector import find_model, prepare
from mobilevig_det.apis.input_files import Skipped
from mobilevig_det.apis.ray_run import detect, needed, share_out, start_ray
from mobilevig_det.errors import UserError
from mobilevig_det.export.exported_detector import SUFFIXES, use_exported

from mmengine.registry import init_default_scope
from tqdm import tqdm


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Detect objects in millions of images, on one machine or many, '
        'with Ray Data; rows go into Parquet files. Go on with --resume.'
    )
    parser.add_argument(
        'input',
        metavar='INPUT',
        help='a folder of images, a text file with a path a line, or a Parquet file '
        'or folder with a column of paths, or of names and one of bytes; here or at '
        's3://, gs://, hdfs://',
    )
    parser.add_argument(
        '--config',
        help='config file; by default the one in the folder of the checkpoint',
    )
    parser.add_argument(
        '--checkpoint',
        help='checkpoint file, or an exported detector (.onnx, .xml), at a path that '
        'all machines have; if neither is given, the run of `make demo`',
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
        '--actors', type=int, help='models; by default one a GPU, or else a CPU'
    )
    parser.add_argument(
        '--cpus-per-actor',
        type=float,
        help='CPUs to reserve, and threads to use, for each model (default: a bit '
        'less than one, to leave some to Ray)',
    )
    parser.add_argument(
        '--num-gpus',
        type=float,
        help='GPUs for each model, for example 0.5 (default: 1 where there are any)',
    )
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out what scores less (default: %(default)s); for AP, use 0',
    )
    parser.add_argument(
        '--block-size',
        type=int,
        help='images that a worker does at a time, and rows in a file (default: 200, '
        'fewer of few images, more of millions; of Parquet with bytes: a row group)',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on in --out-dir: what has a row there is not done again',
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    for name in ('actors', 'cpus_per_actor', 'batch_size', 'block_size'):
        if (getattr(args, name) or 1) <= 0:
            parser.error(f'--{name.replace("_", "-")} must be more than 0')
    if (args.num_gpus or 0) < 0:
        parser.error('--num-gpus must not be less than 0')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr must be between 0 and 1')
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    needed()
    from mobilevig_det.apis.detection_files import (
        check_rows,
        keep_settings,
        make_settings,
        rows_done,
    )
    from mobilevig_det.apis.detection_worker import Job
    from mobilevig_det.apis.image_blocks import (
        find_filesystem,
        find_images,
        left_blocks,
    )

    import ray

    config, checkpoint = find_model(args.config, args.checkpoint)
    cfg = load_config(config, args.cfg_options)
    if is_classifier(cfg):
        raise UserError('A classifier is for tools/infer.py.')
    skipped = Skipped('infer_ray.py')
    images = find_images(args.input, args.block_size, skipped)
    if not len(images.names):
        raise UserError(f'There are no images in {args.input}.')

    rows = args.out_dir.rstrip('/') + '/rows'
    filesystem, folder = find_filesystem(rows)
    settings = make_settings(cfg, checkpoint, args.score_thr)
    keep_settings(args.out_dir, settings, args.resume)
    blocks = left_blocks(images, rows_done(filesystem, folder))
    if checkpoint.endswith(SUFFIXES):
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        use_exported(cfg, osp.abspath(checkpoint))
        cfg.setdefault('custom_imports', dict(imports=[]))
        cfg.custom_imports.imports += ['mobilevig_det.export.exported_detector']
    cfg = prepare(cfg, args.score_thr)
    start_ray(args.address)
    try:
        share = share_out(
            ray.cluster_resources(),
            args.actors,
            args.cpus_per_actor,
            args.num_gpus,
            may_grow=args.address is not None,
        )
        job = Job(
            cfg=cfg.pretty_text,
            checkpoint=None if checkpoint.endswith(SUFFIXES) else absolute(checkpoint),
            category_ids={},
            score_thr=args.score_thr,
            batch_size=args.batch_size,
            threads=max(1, int(share.num_cpus)),
            inputs=args.input,
            out=rows,
            folder=os.getcwd(),
            must_see=[
                absolute(path)
                for path in (args.input, rows, checkpoint)
                if '://' not in path
            ],
        )
        left = sum(len(block['rows'][0]) for block in blocks)
        with tqdm(total=left, unit='image') as progress:
            detect(blocks, job, share, progress)
    finally:
        ray.shutdown()
    done = rows_done(filesystem, folder)
    check_rows(images, done)
    print(len(done))


def absolute(path: str) -> str:
    return path if '://' in path else osp.abspath(path)


if __name__ == '__main__':
    main()
