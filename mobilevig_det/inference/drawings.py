"""Write drawings, and name the file of each."""

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

# Drawings have the format of their image if it is one of these.
DRAWN_AS = ('.jpg', '.jpeg', '.png', '.bmp')
MAX_NAME_BYTES = 200  # of a file; most file systems allow 255


class Drawings:
    """The folder of the drawings of a run, and the name of each.

    Named inputs get file names of their own. If there are lists or shards too, every
    drawing has the path of its input below the folder: names are unique then without
    remembering them, see :func:`_unlisted_name`.

    Args:
        folder (str): The folder.
        inputs (Inputs): Images and videos.

    Raises:
        UserError: If an input would be overwritten.
    """

    def __init__(self, folder: str, inputs: Inputs) -> None:
        self.folder = folder
        self._inside = osp.join(osp.realpath(folder), '')
        self._named: dict[str, str] = {}
        if inputs.streams:
            return
        paths = [*inputs.images, *inputs.videos]
        self._named = unique_names(paths)
        # Not those with a NUL byte, which is no path.
        real = {osp.realpath(path) for path in paths if '\0' not in path}
        for path, name in self._named.items():
            if osp.realpath(drawing := osp.join(folder, name)) in real:
                raise UserError(
                    f'The drawing of {path} would overwrite the input {drawing}: '
                    'choose another --out-dir.'
                )

    def path(self, name: str) -> str:
        """Return where the drawing of an input is written."""
        if self._named:
            return osp.join(self.folder, self._named[name])
        if osp.realpath(name.replace('\0', '')).startswith(self._inside):
            raise UserError(
                f'{name} lies in the folder of the drawings, one of which could '
                'overwrite it: choose another --out-dir.'
            )
        return osp.join(self.folder, _unlisted_name(name))

    def draw(self, result: Result) -> np.ndarray | None:
        """Draw a result. An image's drawing is written, a frame's is returned."""
        if result.error is not None or not isinstance(result, Detections):
            return None
        drawn = result.draw()
        if result.source.video is not None:
            return drawn
        save_image(self.path(result.name), drawn)
        return None


def _unlisted_name(name: str) -> str:
    """Return a path below a folder for any name, such that no two names share one.

    Plain relative names stay as they are. Others get a digest of the name: absolute
    ones, those in another format, and what a file system can't hold.
    """
    parts = [part for part in name.split(os.sep) if part not in ('', '.')]
    *folders, file = [_as_part(part) for part in parts]
    # Not the name of a drawing, next to which the folder may be.
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
    """Return a component of a path as a file system can hold it, below a folder."""
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
    """Name drawings by the file names of images and videos, numbered if they repeat."""
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
