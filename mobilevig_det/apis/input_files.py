"""The images and videos that arguments stand for, and what is drawn of each."""

import glob
import os
import os.path as osp
import sys

from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from tqdm import tqdm

from ..errors import UserError

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


class Skipped:
    """Says on one line what can't be used, and why; remembers that."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.count = 0

    def __call__(self, name: str, reason: str) -> None:
        self.count += 1
        tqdm.write(f'{self.program}: skipped {name}: {reason}', file=sys.stderr)


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
