#!/usr/bin/env python
"""Detect objects in images, folders of them, and videos."""

import argparse
import glob
import os
import os.path as osp
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import mobilevig_det  # noqa: F401  first, to name what doesn't fit
from mobilevig_det.apis.cli import (
    add_cfg_options,
    command,
    find_checkpoint,
    load_config,
)
from mobilevig_det.apis.inference import (
    CocoResults,
    Inferencer,
    NoPicture,
    Picture,
    Prediction,
)
from mobilevig_det.datasets.image_file import ImageFileError, hush_opencv, read_image
from mobilevig_det.errors import UserError
from mobilevig_det.ops.allocator import keep_freed_memory

import cv2
import mmcv
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from mmengine.config import Config
from terminaltables import AsciiTable
from tqdm import tqdm

IMAGES = (*IMG_EXTENSIONS, '.gif')
VIDEOS = (
    '.mp4',
    '.avi',
    '.mov',
    '.mkv',
    '.webm',
    '.m4v',
    '.mpg',
    '.mpeg',
    '.wmv',
    '.flv',
)
# Pictures are written in the format of their image if it is one of these.
DRAWN_AS = ('.jpg', '.jpeg', '.png', '.bmp')
DEMO = Path('work_dirs', 'demo')


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Detect objects in images, folders of them, and videos. '
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


class Skipped:
    """Says on one line what can't be used, and why; remembers that."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, name: str, reason: str) -> None:
        self.count += 1
        tqdm.write(f'infer.py: skipped {name}: {reason}', file=sys.stderr)


def find_inputs(inputs: list[str], skipped: Skipped) -> tuple[list[str], list[str]]:
    """The image files and the videos that the arguments stand for, each
    once."""
    paths: list[str] = []
    for name in inputs:
        if osp.isdir(name):
            found = sorted(
                osp.join(name, file)
                for file in os.listdir(name)
                if file.lower().endswith(IMAGES + VIDEOS)
            )
            if not found:
                skipped(name, 'no images or videos are in this folder')
        elif osp.lexists(name) or not glob.has_magic(name):
            found = [name]  # whatever it is called
        else:
            found = sorted(
                path for path in glob.glob(name, recursive=True) if osp.isfile(path)
            )
            if not found:
                skipped(name, 'the pattern matches no file')
        paths += found
    paths = list(dict.fromkeys(paths))
    videos = [path for path in paths if path.lower().endswith(VIDEOS)]
    return [path for path in paths if path not in set(videos)], videos


def find_model(config: str | None, checkpoint: str | None) -> tuple[str, str]:
    """Config and checkpoint, where one or both are not named."""
    if config and not checkpoint:
        raise UserError('--config needs the --checkpoint that goes with it.')
    if checkpoint:
        find_checkpoint(checkpoint)
        return config or only_config(osp.dirname(checkpoint)), checkpoint
    for folder in (DEMO, Path(__file__).resolve().parents[1] / DEMO):
        checkpoints = [
            *folder.glob('best_*.pth'),
            *sorted(folder.glob('epoch_*.pth'), key=os.path.getmtime, reverse=True),
        ]
        if checkpoints:
            return only_config(str(folder)), str(checkpoints[0])
    raise UserError(
        'No model is named, and `make demo` has left none: there is no '
        f'checkpoint in {DEMO.resolve()}. Give --config and --checkpoint, or '
        'run `make demo` first.'
    )


def only_config(folder: str) -> str:
    configs = glob.glob(osp.join(glob.escape(folder), '*.py'))
    if len(configs) != 1:
        raise UserError(
            f'{len(configs) or "No"} configs are in '
            f'{folder or "."}, the folder of the checkpoint: '
            'give one with --config.'
        )
    return configs[0]


def prepare(cfg: Config, score_thr: float) -> Config:
    # Nothing is logged: what is drawn is written here.
    cfg.visualizer.vis_backends = []
    # Masks need not be computed of what would be left out. Nothing else
    # changes: suppression goes from higher scores to lower ones.
    test_cfg = cfg.model.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn') or {}):
        if 'score_thr' in part:
            part.score_thr = max(part.score_thr, score_thr)
    return cfg


def name_drawings(folder: str, images: list[str], videos: list[str]) -> dict[str, str]:
    """Where to draw each input, under a file name of its own."""
    drawings: dict[str, str] = {}
    inputs = {osp.realpath(path) for path in images}
    for path in (*images, *videos):
        suffixes = ('.mp4',) if path in videos else DRAWN_AS
        stem, suffix = osp.splitext(osp.basename(path))
        if suffix.lower() not in suffixes:
            stem, suffix = stem + suffix, suffixes[0]
        drawing = osp.join(folder, stem + suffix)
        number = 1
        while drawing in drawings.values():
            number += 1
            drawing = osp.join(folder, f'{stem}_{number}{suffix}')
        if osp.realpath(drawing) in inputs:
            raise UserError(
                f'The picture drawn of {path} would overwrite '
                f'the input {drawing}: choose another --out-dir.'
            )
        drawings[path] = drawing
    return drawings


class Run:
    """One call of the tool: the inputs go in, files come out."""

    def __init__(
        self,
        args: argparse.Namespace,
        inferencer: Inferencer,
        drawings: dict[str, str],
        skipped: Skipped,
        progress: tqdm,
    ) -> None:
        self.args = args
        self.inferencer = inferencer
        self.drawings = drawings  # empty: draw nothing
        self.skipped = skipped
        self.progress = progress
        self.results = CocoResults(inferencer.classes, inferencer.cfg, args.score_thr)

    def predict(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """The predictions, noted in the results."""
        for found in self.inferencer.predict(pictures, self.args.batch_size):
            self.progress.update()
            if isinstance(found, NoPicture):
                self.skipped(found.picture.name, found.reason)
            else:
                self.results.add(found)
                yield found

    def draw(self, prediction: Prediction) -> np.ndarray:
        return self.inferencer.draw(prediction, self.args.score_thr)

    def images(self, paths: list[str]) -> None:
        for prediction in self.predict(self._read_images(paths)):
            path = prediction.picture.name
            if self.drawings:
                mmcv.imwrite(self.draw(prediction), self.drawings[path])

    def _read_images(self, paths: list[str]) -> Iterator[Picture]:
        for path in paths:
            try:
                image = read_image(path)
            except ImageFileError as error:
                self.skipped(path, str(error))
                self.progress.update()
            else:
                id = self.results.expect(path, image)
                yield Picture(path, image, id)

    def video(self, path: str) -> None:
        if not osp.isfile(path):
            self.skipped(path, 'there is no such file')
            return
        video = cv2.VideoCapture(path)
        if not video.isOpened():
            self.skipped(
                path, 'OpenCV cannot open it: it is empty, cut off or not a video'
            )
            return
        writer = None
        try:
            for prediction in self.predict(self._read_frames(path, video)):
                if not self.drawings:
                    continue
                drawn = self.draw(prediction)
                if writer is None:
                    writer = self._writer(path, video, drawn)
                writer.write(drawn)
        finally:
            video.release()
            if writer is not None:
                writer.release()

    def _read_frames(self, path: str, video: cv2.VideoCapture) -> Iterator[Picture]:
        stated = frame_count(video)
        count = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            name = f'{path}#{count}'
            id = self.results.expect(name, frame, video=path, frame=count)
            yield Picture(name, frame, id)
            count += 1
        # Some formats only estimate how many frames there are.
        if count == 0:
            self.skipped(path, 'no frame of it can be read')
        elif stated - count > max(1, 0.02 * stated):
            self.skipped(
                f'the end of {path}',
                'the video breaks off after '
                f'{count} of {stated} frames; those are done',
            )
        self.progress.update(max(0, stated - count))

    def _writer(
        self, path: str, video: cv2.VideoCapture, drawn: np.ndarray
    ) -> cv2.VideoWriter:
        writer = cv2.VideoWriter(
            self.drawings[path],
            cv2.VideoWriter_fourcc(*'mp4v'),
            video.get(cv2.CAP_PROP_FPS) or 25.0,
            (drawn.shape[1], drawn.shape[0]),
        )
        if not writer.isOpened():
            raise UserError(
                f'OpenCV cannot write {self.drawings[path]}: use --no-save-vis.'
            )
        return writer


def frame_count(video: cv2.VideoCapture) -> int:
    """What the file says; 0 if it doesn't."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


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


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hush_opencv()
    skipped = Skipped()
    images, videos = find_inputs(args.inputs, skipped)
    if not images and not videos:
        sys.exit('infer.py: there is nothing to look at.')
    config, checkpoint = find_model(args.config, args.checkpoint)
    drawings = {}
    if not args.no_save_vis:
        folder = osp.join(args.out_dir, 'vis')
        drawings = name_drawings(folder, images, videos)
        os.makedirs(folder, exist_ok=True)
    os.makedirs(args.out_dir, exist_ok=True)

    cfg = prepare(load_config(config, args.cfg_options), args.score_thr)
    try:
        inferencer = Inferencer(
            cfg, checkpoint, device=args.device, show_progress=False
        )
    except RuntimeError as error:
        if args.device is None:
            raise
        raise UserError(f'--device {args.device}: {error}') from error
    if next(inferencer.model.parameters()).device.type == 'cpu':
        keep_freed_memory()
    total = len(images) + sum(frame_count(cv2.VideoCapture(path)) for path in videos)
    out = osp.join(args.out_dir, 'predictions.json')
    with tqdm(total=total, unit='image') as progress:
        run = Run(args, inferencer, drawings, skipped, progress)
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
    if skipped.count:
        sys.exit(f'infer.py: {skipped.count} skipped, see above.')


if __name__ == '__main__':
    main()
