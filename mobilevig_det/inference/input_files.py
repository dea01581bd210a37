"""The images and videos that arguments stand for."""

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


class Skipped:
    """Says on one line what can't be used, and why; remembers that.

    Args:
        program (str): Who says it.
        quiet (bool): Whether another process says it. Defaults to False.
    """

    def __init__(self, program: str, quiet: bool = False) -> None:
        self.program = program
        self.quiet = quiet
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, name: str, reason: str) -> None:
        with self._lock:
            self.count += 1
        self.note(f'skipped {name}: {reason}')

    def note(self, message: str) -> None:
        if not self.quiet:
            tqdm.write(printable(f'{self.program}: {message}'), file=sys.stderr)


def printable(text: str) -> str:
    """Names that aren't UTF-8 with ``\\xff`` for what can't be printed."""
    return os.fsencode(text).decode(errors='backslashreplace')


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
            found = _in_folder(name, skipped)
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


def _in_folder(folder: str, skipped: Skipped) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        skipped(folder, f'cannot be read: {error.strerror}')
        return []
    found = [name for name in names if name.lower().endswith(IMAGES + VIDEOS)]
    if not found:
        reason = 'no images or videos are in this folder'
        if any(osp.isdir(osp.join(folder, name)) for name in names):
            below = osp.join(folder, '**', '*.jpg')
            reason += f'; those in folders below it are found by "{below}"'
        skipped(folder, reason)
    return [osp.join(folder, name) for name in found]


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
