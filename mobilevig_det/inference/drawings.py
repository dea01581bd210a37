"""Where pictures are drawn."""

import os
import os.path as osp

from ..errors import UserError
from .input_files import VIDEOS
from .input_stream import Inputs

# Pictures are written in the format of their image if it is one of these.
DRAWN_AS = ('.jpg', '.jpeg', '.png', '.bmp')


class Drawings:
    """Where to draw each input; ``drawings[name]`` is a path.

    Named files get file names of their own. Where there are lists or tar shards too,
    all get their own paths below the folder, which are unlike all others': none of
    them need be remembered.

    Args:
        folder (str): The pictures'.
        inputs (Inputs): Images and videos.

    Raises:
        UserError: If an input would be overwritten.
    """

    def __init__(self, folder: str, inputs: Inputs) -> None:
        self.folder = folder
        self._inside = osp.join(osp.realpath(folder), '')
        self._named: dict[str, str] = {}
        if not inputs.streams:
            self._named = _name_drawings(folder, inputs.images, inputs.videos)

    def __getitem__(self, name: str) -> str:
        if self._named:
            return self._named[name]
        if osp.realpath(name).startswith(self._inside):
            raise UserError(
                f'{name} lies in the folder of the pictures to draw, one of which '
                'could overwrite it: choose another --out-dir.'
            )
        parts = ['__' if part == '..' else part for part in name.split(os.sep)]
        drawing = osp.join(self.folder, *(p for p in parts if p not in ('', '.')))
        suffixes = ('.mp4',) if name.lower().endswith(VIDEOS) else DRAWN_AS
        return drawing if drawing.lower().endswith(suffixes) else drawing + suffixes[0]


def _name_drawings(folder: str, images: list[str], videos: list[str]) -> dict[str, str]:
    """Under file names of their own."""
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
