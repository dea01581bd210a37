"""Resolve arguments to input images.

Inputs are files, folders, patterns, lists, tar shards, videos, Parquet files, URLs of
object stores, and arrays.
"""

import glob
import itertools
import os
import os.path as osp
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..datasets import ImageFileError
from .images import IMAGES, VIDEOS, InputImage, Video, as_image, frame_count
from .names import (
    DigestSet,
    RaiseOnSkip,
    SkipReport,
    count_lines,
    images_in_shard,
    is_address,
    is_list,
    is_shard,
    listed_names,
    open_regular,
)


class Inputs:
    """Iterable over the images and videos that command-line arguments name.

    Image files come first, then the contents of lists, shards and Parquet files in
    their order, then video files. Each input occurs once. Lists and shards are streamed
    and never held in memory.

    Args:
        names (list[str]): Files, folders, patterns, lists (``.txt``, ``.lst``; ``-``
            for standard input), shards (``.tar``), Parquet files, and URLs of folders,
            lists and Parquet files in object stores.
        report (SkipReport): Reports the inputs that can't be used.

    Attributes:
        images (list[str]): Paths of image files.
        videos (list[str]): Paths of video files.
        streams (list[str]): Lists, shards, Parquet files and URLs.
    """

    def __init__(self, names: list[str], report: SkipReport) -> None:
        self.report = report
        paths = find_files(names, report)
        self.streams = [path for path in paths if _is_stream(path)]
        self.videos = [
            path
            for path in paths
            if path.lower().endswith(VIDEOS) and not _is_stream(path)
        ]
        others = {*self.streams, *self.videos}
        self.images = [path for path in paths if path not in others]

    def __bool__(self) -> bool:
        return bool(self.images or self.videos or self.streams)

    def __iter__(self) -> Iterator[InputImage]:
        found: Iterable[InputImage] = map(InputImage, self.images)
        if self.streams:
            found = itertools.chain(found, self._listed())
        found = itertools.chain(found, map(InputImage, self.videos))
        for place, image in enumerate(found):
            image.place = place
            yield image

    def _listed(self) -> Iterator[InputImage]:
        seen = DigestSet()
        for name in (*self.images, *self.videos):
            seen.add(name)
        again = 0
        for image in self._streamed():
            if seen.add(image.name):
                yield image
            else:
                again += 1
        if again:
            self.report.note(f'{again} of the listed names are repeated and ignored.')

    def _streamed(self) -> Iterator[InputImage]:
        for stream in self.streams:
            if is_shard(stream):
                yield from self._members(stream)
            elif is_list(stream) and not is_address(stream):
                for name in listed_names(stream, self.report):
                    if is_shard(name) and not is_address(name):
                        yield from self._members(name)
                    else:
                        yield InputImage(name)
            else:
                from .object_stores import images_at

                if not is_address(stream) and not osp.isdir(stream):
                    try:
                        with open_regular(stream):
                            pass
                    except ImageFileError as error:
                        self.report.skip(stream, str(error))
                        continue
                for name, file, group, row in images_at(stream, IMAGES):
                    yield InputImage(name, 0, file, group, row, store=stream)

    def _members(self, shard: str) -> Iterator[InputImage]:
        for name, offset, size in images_in_shard(shard, IMAGES, self.report):
            yield InputImage(name, 0, shard, offset, size)

    def count(self) -> int | None:
        """Return the number of images and frames.

        Returns:
            int | None: The number, which is an estimate for lists and some videos;
            None if it is unknown, as for pipes and shards.
        """
        total = len(self.images)
        for path in self.videos:
            if osp.isfile(path):
                total += frame_count(cv2.VideoCapture(path))
        for stream in self.streams:
            count = count_lines(stream) if is_list(stream) else None
            if count is None:
                return None
            total += count
        return total

    def described(self) -> Iterator[str]:
        """Yield strings that are equal in all processes with the same inputs."""
        yield from self.images
        yield from self.videos
        for stream in self.streams:
            yield f'{stream}, {osp.getsize(stream) if osp.exists(stream) else 0} bytes'


def _is_stream(path: str) -> bool:
    return (
        is_address(path) or is_list(path) or is_shard(path) or path.endswith('.parquet')
    )


def find_files(names: list[str], report: SkipReport) -> list[str]:
    """Expand folders, patterns and braces to paths.

    Args:
        names (list[str]): Paths, patterns and URLs.
        report (SkipReport): Reports folders and patterns without images.

    Returns:
        list[str]: Paths and URLs, without duplicates. Names without a pattern are
        returned even if there is no such file.
    """
    paths: list[str] = []
    for name in names:
        if is_address(name):
            found = [name]
        elif osp.isdir(name):
            found = _in_folder(name, report)
        elif osp.lexists(name):
            found = [name]  # A file name may look like a pattern.
        elif len(expanded := expand_braces(name)) > 1:
            found = expanded
        elif not glob.has_magic(name):
            found = [name]
        else:
            found = sorted(
                path for path in glob.glob(name, recursive=True) if osp.isfile(path)
            )
            if not found:
                report.skip(name, 'the pattern matches no file')
        paths += found
    return list(dict.fromkeys(paths))


def _in_folder(folder: str, report: SkipReport) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        report.skip(folder, f'cannot be read: {error.strerror}')
        return []
    tables = [name for name in names if name.endswith('.parquet')]
    found = [name for name in names if name.lower().endswith(IMAGES + VIDEOS)]
    if tables and not found:
        found = tables
    if not found:
        reason = 'no images or videos are in this folder'
        if any(osp.isdir(osp.join(folder, name)) for name in names):
            below = osp.join(folder, '**', '*.jpg')
            reason += f'; to include its subfolders, use the pattern "{below}"'
        report.skip(folder, reason)
    return [osp.join(folder, name) for name in found]


def expand_braces(name: str) -> list[str]:
    """Expand ranges of numbers in braces, as a shell does.

    Example:
        >>> expand_braces('shard-{08..10}.tar')
        ['shard-08.tar', 'shard-09.tar', 'shard-10.tar']
    """
    parts = re.split(r'\{(\d+)\.\.(\d+)\}', name)
    ranges = [
        [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3])
    ]
    return [
        parts[0] + ''.join(n + text for n, text in zip(numbers, parts[3::3]))
        for numbers in itertools.product(*ranges)
    ]


def iterate(source: Any) -> Iterator[InputImage]:
    """Yield the images of a source of the Python API.

    Args:
        source: A path (an image, a folder, a pattern, a list, a shard, a video), an
            array, a PIL image, or an iterable of paths, arrays and PIL images.

    Yields:
        InputImage: Each image and each frame of a video.

    Raises:
        UserError: If a path contains no images, or an item has an unsupported type.
    """
    if isinstance(source, str | os.PathLike):
        source = Inputs([os.fspath(source)], RaiseOnSkip('stream'))
    elif isinstance(source, np.ndarray | Image.Image):
        source = [source]
    count = 0
    for item in source:
        image = item if isinstance(item, InputImage) else as_image(item)
        if image.is_video:
            frames: Iterable = Video(image.name).frames()
        else:
            frames = [image]
        for frame in frames:
            if frame.pixels is not None and frame.video is None:
                frame = replace(frame, name=f'array {count}')
            yield replace(frame, place=count)  # Images and frames are counted together.
            count += 1
