#!/usr/bin/env python
"""Detect objects in images, folders of them, and videos; or classify images."""

import argparse
import os
import os.path as osp
import sys

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.apis.classification_run import ClassificationRun, write_guesses
from mobilevig_det.apis.classifiers import is_classifier
from mobilevig_det.apis.cli import add_cfg_options, command, load_config
from mobilevig_det.apis.coco_results import CocoResults
from mobilevig_det.apis.detector import find_model, load_detector, prepare
from mobilevig_det.apis.inference_run import InferenceRun, frame_count
from mobilevig_det.apis.input_files import Skipped, find_inputs, name_drawings
from mobilevig_det.datasets import hush_opencv

import cv2
from mmengine.config import Config
from terminaltables import AsciiTable
from tqdm import tqdm


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Detect objects in images, folders of them, and videos; with '
        "a classifier's config, tell the five best classes of each image. "
        'The exit code is 0 if all of them could be used.'
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='IMAGES',
        help='image files, videos, folders, or patterns such as "a/**/*.jpg"',
    )
    parser.add_argument(
        '--config',
        help='config file: a path, or the name of one of ours; by default '
        'the one in the folder of the checkpoint',
    )
    parser.add_argument(
        '--checkpoint',
        help='checkpoint file; if neither is given, the run of `make demo`',
    )
    parser.add_argument(
        '--out-dir',
        default='work_dirs/infer',
        help='folder for predictions.json and vis/ (default: %(default)s)',
    )
    parser.add_argument(
        '--device', help='for example cuda:1 or cpu; by default a GPU if there is one'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out what scores less, everywhere (default: %(default)s); '
        'for a file to compute AP from, use 0',
    )
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--no-save-vis', action='store_true', help='draw no pictures')
    add_cfg_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.batch_size < 1:
        parser.error('--batch-size must be at least 1')
    if not 0 <= args.score_thr <= 1:
        parser.error('--score-thr must be between 0 and 1')
    return args


def print_summary(results: CocoResults, score_thr: float) -> None:
    rows = [['class', 'detections', 'images with one', 'mean score']]
    rows += [
        [name, count, images, f'{score:.2f}']
        for name, count, images, score in results.summary()
    ]
    if len(rows) > 1:
        print(AsciiTable(rows).table)
    print(
        f'{len(results.annotations)} detections of at least {score_thr:g} '
        f'in {results.num_images} images and frames.'
    )


def classify(
    cfg: Config,
    checkpoint: str,
    args: argparse.Namespace,
    images: list[str],
    videos: list[str],
    skipped: Skipped,
) -> None:
    for path in videos:
        skipped(path, 'a classifier looks at images only')
    run = ClassificationRun(cfg, checkpoint, args.device)
    out = osp.join(args.out_dir, 'predictions.json')
    os.makedirs(args.out_dir, exist_ok=True)
    with tqdm(total=len(images), unit='image') as progress:
        found = run.images(images, skipped, progress)
    write_guesses(found, out)
    for path, guesses in found.items():
        print(f'{path}: ' + ', '.join(f'{g.name} {g.score:.3f}' for g in guesses))
    print(f'Model: {checkpoint}\nClasses: {out}')


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hush_opencv()
    skipped = Skipped('infer.py')
    images, videos = find_inputs(args.inputs, skipped)
    if not images and not videos:
        sys.exit('infer.py: there is nothing to look at.')
    config, checkpoint = find_model(args.config, args.checkpoint)
    cfg = load_config(config, args.cfg_options)
    if is_classifier(cfg):
        classify(cfg, checkpoint, args, images, videos, skipped)
        end(skipped)
        return
    drawings = {}
    if not args.no_save_vis:
        folder = osp.join(args.out_dir, 'vis')
        drawings = name_drawings(folder, images, videos)
        os.makedirs(folder, exist_ok=True)
    os.makedirs(args.out_dir, exist_ok=True)

    cfg = prepare(cfg, args.score_thr)
    inferencer = load_detector(cfg, checkpoint, args.device)
    total = len(images) + sum(frame_count(cv2.VideoCapture(path)) for path in videos)
    out = osp.join(args.out_dir, 'predictions.json')
    with tqdm(total=total, unit='image') as progress:
        run = InferenceRun(
            inferencer, args.batch_size, args.score_thr, drawings, skipped, progress
        )
        try:
            run.images(images)
            for path in videos:
                run.video(path)
        finally:  # also after Ctrl-C: what is done is done
            run.results.write(out)

    print_summary(run.results, args.score_thr)
    print(f'Model: {checkpoint}\nDetections: {out}')
    if drawings:
        print(f'Pictures: {folder}/')
    end(skipped)


def end(skipped: Skipped) -> None:
    if skipped.count:
        sys.exit(f'infer.py: {skipped.count} skipped, see above.')


if __name__ == '__main__':
    main()
