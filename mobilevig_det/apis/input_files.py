"""The images and videos that arguments stand for, and what is drawn of each."""

import glob
import itertools
import os
import os.path as osp
import re
import sys
import threading
from typing import NamedTuple

import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from tqdm import tqdm

from ..datasets import ImageFileError, read_image
from ..datasets.image_file import decode_image
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
        self._lock = threading.Lock()

    def __call__(self, name: str, reason: str) -> None:
        with self._lock:
            self.count += 1
        tqdm.write(f'{self.program}: skipped {name}: {reason}', file=sys.stderr)


class Input(NamedTuple):
    """An image or a video, not read yet.

    ``name`` is its path or, of a member of a tar file, ``shard.tar/key.jpg``;
    ``shard`` is that file then, and the content ``size`` bytes from ``offset``.
    """

    name: str
    shard: str | None = None
    offset: int = 0
    size: int = 0

    @property
    def is_video(self) -> bool:
        return self.shard is None and self.name.lower().endswith(VIDEOS)

    def image(self) -> np.ndarray:
        """uint8, (H, W, 3), BGR.

        Raises:
            ImageFileError: If there is none.
        """
        if self.shard is None:
            return read_image(self.name)
        try:
            with open(self.shard, 'rb') as file:
                file.seek(self.offset)
                return decode_image(file.read(self.size))
        except OSError as error:
            raise ImageFileError(f'cannot be read: {error.strerror}') from None


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
        elif osp.lexists(name):
            found = [name]  # whatever it is called
        elif len(expanded := expand_braces(name)) > 1:
            found = expanded
        elif not glob.has_magic(name):
            found = [name]
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


def expand_braces(name: str) -> list[str]:
    """``shard-{000..009}.tar`` as the ten names that it is short for, which the shell
    makes of it too, unless it is quoted."""
    parts = re.split(r'\{(\d+)\.\.(\d+)\}', name)
    ranges = [
        [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3])
    ]
    return [
        parts[0] + ''.join(n + text for n, text in zip(numbers, parts[3::3]))
        for numbers in itertools.product(*ranges)
    ]


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


def listed_drawing(folder: str, name: str) -> str:
    """Where to draw an image of a list or a shard: under its own path, which is
    unlike all others', so that none of them need be remembered.

    Raises:
        UserError: If the image lies in the folder of the pictures.
    """
    inside = osp.join(osp.realpath(folder), '')
    if osp.realpath(name).startswith(inside):
        raise UserError(
            f'{name} lies in the folder of the pictures to draw, one of which could '
            'overwrite it: choose another --out-dir.'
        )
    parts = ['__' if part == '..' else part for part in name.split(os.sep)]
    drawing = osp.join(folder, *(part for part in parts if part not in ('', '.')))
    return drawing if drawing.lower().endswith(DRAWN_AS) else drawing + DRAWN_AS[0]
