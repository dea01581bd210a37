"""Write images with drawn results under unique file names."""

import hashlib
import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from ..errors import UserError
from .images import VIDEOS
from .results import Detections, Result, save_image
from .sources import Inputs

# A drawing has the format of its input image if that is one of these, or else JPEG.
DRAWN_AS = ('.jpg', '.jpeg', '.png', '.bmp')
MAX_NAME_BYTES = 200  # Length of a file name; most file systems allow 255.


class Drawings:
    """The output folder for drawings, which maps each input to a unique file name.

    If all inputs are known in advance, a drawing has the file name of its input, with
    a number if several inputs share that name. If there are also lists or shards, the
    drawing's path inside the folder is derived from the input's path: such names are
    unique without being kept in memory, see :func:`_unlisted_name`.

    Args:
        folder (str): The output folder.
        inputs (Inputs): The images and videos of the run.

    Raises:
        UserError: If a drawing would overwrite an input.
    """

    def __init__(self, folder: str, inputs: Inputs) -> None:
        self.folder = folder
        self._inside = osp.join(osp.realpath(folder), '')
        self._named: dict[str, str] = {}
        if inputs.streams:
            return
        paths = [*inputs.images, *inputs.videos]
        self._named = unique_names(paths)
        # realpath() rejects names with a NUL byte.
        real = {osp.realpath(path) for path in paths if '\0' not in path}
        for path, name in self._named.items():
            if osp.realpath(drawing := osp.join(folder, name)) in real:
                raise UserError(
                    f'The drawing of {path} would overwrite the input {drawing}: '
                    'choose another --out-dir.'
                )

    def path(self, name: str) -> str:
        """Return the path of the drawing of an input.

        Args:
            name (str): The name of the input.

        Raises:
            UserError: If the input lies in the output folder, where a drawing could
                overwrite it.
        """
        if self._named:
            return osp.join(self.folder, self._named[name])
        if osp.realpath(name.replace('\0', '')).startswith(self._inside):
            raise UserError(
                f'{name} lies in the folder of the drawings, one of which could '
                'overwrite it: choose another --out-dir.'
            )
        return osp.join(self.folder, _unlisted_name(name))

    def draw(self, result: Result) -> np.ndarray | None:
        """Draw a detection result.

        Args:
            result (Result): The result of an image or a video frame. Failed inputs
                and classifications are not drawn.

        Returns:
            np.ndarray | None: The drawing of a video frame, uint8 of shape (H, W, 3),
            BGR. None for an image, whose drawing is written to a file.
        """
        if result.error is not None or not isinstance(result, Detections):
            return None
        drawn = result.draw()
        if result.source.video is not None:
            return drawn
        save_image(self.path(result.name), drawn)
        return None


def _unlisted_name(name: str) -> str:
    """Return a relative path for any name, such that no two names share a path.

    Plain relative names are unchanged. A digest is added to absolute names, names
    with another image format and names that a file system can't store.
    """
    parts = [part for part in name.split(os.sep) if part not in ('', '.')]
    *folders, file = [_as_part(part) for part in parts]
    # A folder must not have the name that a drawing next to it may have.
    folders = [
        f'{part}.{_digest(part)}' if part.lower().endswith(DRAWN_AS) else part
        for part in folders
    ]
    stem, suffix = osp.splitext(file)
    kept = ('.mp4',) if name.lower().endswith(VIDEOS) else DRAWN_AS
    changed = any(part != given != '..' for part, given in zip((*folders, file), parts))
    if suffix.lower() not in kept:
        stem, suffix, changed = file, kept[0], True
    looks_changed = re.search(r'\.[0-9a-f]{16}$', stem) or '__' in parts
    if changed or looks_changed or name.startswith(os.sep):
        stem += f'.{_digest(name)}'
    return osp.join(*folders, stem + suffix)


def _as_part(part: str) -> str:
    """Return a path component that is valid on file systems and never ``..``."""
    part = '__' if part == '..' else part.replace('\0', '_')
    data = os.fsencode(part)
    if len(data) <= MAX_NAME_BYTES:
        return part
    stem, suffix = osp.splitext(part)
    start = os.fsencode(stem)[:100].decode(errors='replace')
    return f'{start}.{_digest(part)}{suffix[:20]}'


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def unique_names(paths: Iterable[str]) -> dict[str, str]:
    """Name drawings after the file names of images and videos.

    Args:
        paths (Iterable[str]): Paths of the images and videos.

    Returns:
        dict[str, str]: The file name of the drawing by path. File names that occur
        several times are numbered.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    for path in dict.fromkeys(paths):
        suffixes = ('.mp4',) if path.lower().endswith(VIDEOS) else DRAWN_AS
        stem, suffix = osp.splitext(_as_part(osp.basename(path)))
        if suffix.lower() not in suffixes:
            stem, suffix = stem + suffix, suffixes[0]
        name = stem + suffix
        while name in taken:
            repeats[stem + suffix] += 1
            name = f'{stem}_{repeats[stem + suffix] + 1}{suffix}'
        taken.add(name)
        names[path] = name
    return names
