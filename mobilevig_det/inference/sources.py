"""The images that arguments stand for: files, folders, patterns, lists, tar shards,
videos, Parquet, object stores and arrays."""

import glob
import itertools
import os
import os.path as osp
import re
import stat
import sys
import threading
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from PIL import Image
from tqdm import tqdm

from ..datasets import ImageFileError, read_image
from ..datasets.image_file import decode_image
from ..errors import UserError
from .digest_set import DigestSet
from .lists_and_shards import (
    count_lines,
    images_in_shard,
    is_list,
    is_shard,
    listed_names,
)

IMAGES = (*IMG_EXTENSIONS, '.gif')
VIDEOS = tuple('.mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .flv'.split())


@dataclass(slots=True)
class InputImage:
    """An image, not decoded yet.

    Attributes:
        name (str): Its path or address; ``shard.tar/key.jpg`` of a member of a tar
            file, ``video.mp4#12`` of a frame.
        place (int): Its position among the inputs.
        file (str | None): The tar or Parquet file that holds it.
        offset (int): Its first byte in a tar file; its row group in Parquet.
        size (int): Its bytes in a tar file; its row in the row group.
        pixels (np.ndarray | None): The decoded image, uint8 (H, W, 3), BGR, of an
            array or a frame.
        video (str | None): The video that it is a frame of.
        frame (int | None): Its number there, from 0.
        store (str | None): The address whose credentials open ``name`` or ``file``.
    """

    name: str
    place: int = 0
    file: str | None = None
    offset: int = 0
    size: int = 0
    pixels: np.ndarray | None = None
    video: str | None = None
    frame: int | None = None
    store: str | None = None

    @property
    def is_video(self) -> bool:
        return self.file is None and self.name.lower().endswith(VIDEOS)

    def read(self) -> np.ndarray:
        """Decode the image: uint8 of shape (H, W, 3), BGR, upright.

        Raises:
            ImageFileError: If it is not a usable image.
            UserError: If an object store cannot be reached.
        """
        if self.pixels is not None:
            return self.pixels
        if '://' in self.name or (self.file and self.file.endswith('.parquet')):
            from .object_stores import Found, read_bytes

            found = Found(self.name, self.file, self.offset, self.size)
            return decode_image(read_bytes(found, self.store or ''))
        try:
            if not stat.S_ISREG(os.stat(self.file or self.name).st_mode):
                kind = 'Is a directory' if osp.isdir(self.name) else 'not a file'
                raise ImageFileError(f'cannot be read: {kind}')
            if self.file is None:
                return read_image(self.name)
            with open(self.file, 'rb') as file:
                file.seek(self.offset)
                return decode_image(file.read(self.size))
        except FileNotFoundError:
            raise ImageFileError('there is no such file') from None
        except OSError as error:
            raise ImageFileError(f'cannot be read: {error.strerror}') from None
        except ValueError as error:
            if isinstance(error, ImageFileError):
                raise
            raise ImageFileError('its name has a NUL byte in it') from None


class SkipReport:
    """Prints a line for each input that is skipped, and counts them.

    Args:
        program (str): The name at the start of each line.
        quiet (bool): Only count, since another process prints. Defaults to False.
    """

    def __init__(self, program: str, quiet: bool = False) -> None:
        self.program = program
        self.quiet = quiet
        self.count = 0
        self._lock = threading.Lock()

    def skip(self, name: str, reason: str) -> None:
        with self._lock:
            self.count += 1
        self.note(f'skipped {name}: {reason}')

    def note(self, message: str) -> None:
        if not self.quiet:
            tqdm.write(printable(f'{self.program}: {message}'), file=sys.stderr)


class RaiseOnSkip(SkipReport):
    """For the Python API: an input that is no image raises a UserError."""

    def skip(self, name: str, reason: str) -> None:
        raise UserError(f'{name}: {reason}')


def printable(text: str) -> str:
    """Names that aren't UTF-8 with ``\\xff`` for what can't be printed."""
    return os.fsencode(text).decode(errors='backslashreplace')


class Inputs:
    """The images and videos that a list of arguments stands for.

    Named images come first, then lists, shards and tables in their order, then named
    videos, each once. Lists and shards are read while they are iterated and never
    held in memory.

    Args:
        names (list[str]): Files, folders, patterns, lists (``.txt``, ``.lst``; ``-``
            is standard input), shards (``.tar``), Parquet, and addresses of folders,
            lists and Parquet in object stores.
        report (SkipReport): Told of what cannot be used.

    Attributes:
        images (list[str]): Named images.
        videos (list[str]): Named videos.
        streams (list[str]): Lists, shards, tables and addresses.
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
            self.report.note(f'{again} of the listed names are repeated; used once.')

    def _streamed(self) -> Iterator[InputImage]:
        for stream in self.streams:
            if is_shard(stream):
                yield from self._members(stream)
            elif is_list(stream) and '://' not in stream:
                for name in listed_names(stream, self.report):
                    if is_shard(name) and '://' not in name:
                        yield from self._members(name)
                    else:
                        yield InputImage(name)
            else:
                from .object_stores import images_at

                for found in images_at(stream, IMAGES):
                    yield InputImage(
                        found.name,
                        file=found.file,
                        offset=found.row_group,
                        size=found.row,
                        store=stream,
                    )

    def _members(self, shard: str) -> Iterator[InputImage]:
        for name, offset, size in images_in_shard(shard, IMAGES, self.report):
            yield InputImage(name, 0, shard, offset, size)

    def count(self) -> int | None:
        """Images and frames as far as files tell; None of a pipe or a shard."""
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
        """What is the same in all processes that see the same inputs."""
        yield from self.images
        yield from self.videos
        for stream in self.streams:
            yield f'{stream}, {osp.getsize(stream) if osp.exists(stream) else 0} bytes'


def _is_stream(path: str) -> bool:
    return '://' in path or is_list(path) or is_shard(path) or path.endswith('.parquet')


def find_files(names: list[str], report: SkipReport) -> list[str]:
    """Expand folders, patterns and braces; each path once."""
    paths: list[str] = []
    for name in names:
        if '://' in name:
            found = [name]
        elif osp.isdir(name):
            found = _in_folder(name, report)
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
            reason += f'; those in folders below it are found by "{below}"'
        report.skip(folder, reason)
    return [osp.join(folder, name) for name in found]


def expand_braces(name: str) -> list[str]:
    """Expand ``shard-{000..009}.tar`` to ten names, as an unquoted shell word."""
    parts = re.split(r'\{(\d+)\.\.(\d+)\}', name)
    ranges = [
        [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3])
    ]
    return [
        parts[0] + ''.join(n + text for n, text in zip(numbers, parts[3::3]))
        for numbers in itertools.product(*ranges)
    ]


def as_image(value: Any, place: int = 0) -> InputImage:
    """Wrap a path, an array (BGR) or a PIL image.

    Raises:
        UserError: If it is none of them.
    """
    if isinstance(value, str | os.PathLike):
        return InputImage(os.fspath(value), place)
    if isinstance(value, Image.Image):
        value = np.asarray(value.convert('RGB'))[..., ::-1]
    if not isinstance(value, np.ndarray):
        raise UserError(
            f'An image is a path, an array or a PIL image, not {type(value).__name__}.'
        )
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise UserError(
            'An array must be uint8 of shape (H, W, 3), BGR; this one is '
            f'{value.dtype} of shape {value.shape}.'
        )
    if not value.size:
        raise UserError(f'The image of shape {value.shape} has no pixels.')
    return InputImage(f'array {place}', place, pixels=np.ascontiguousarray(value))


def iterate(source: Any) -> Iterator[InputImage]:
    """Yield the images of a source of the Python API.

    Args:
        source: A path (an image, a folder, a pattern, a list, a shard, a video), an
            array, a PIL image, or an iterable of paths, arrays and PIL images.

    Raises:
        UserError: If it is none of them, or stands for no image.
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
            yield replace(frame, place=count)  # among all images and frames
            count += 1


class Video:
    """A video file, opened by OpenCV.

    Args:
        path (str): The file.
        place (int): Its position among the inputs. Defaults to 0.

    Raises:
        ImageFileError: If it cannot be opened.
    """

    def __init__(self, path: str, place: int = 0) -> None:
        self.path = path
        self.place = place
        if not osp.isfile(path):
            raise ImageFileError(
                'it is no file' if osp.exists(path) else 'there is no such file'
            )
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise ImageFileError(
                'OpenCV cannot open it: it is empty, cut off or not a video'
            )
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.stated = frame_count(self._capture)  # estimated by some formats
        self.count = 0  # frames so far

    def frames(self, done: Container[str] = ()) -> Iterator[InputImage]:
        """Yield the frames whose names, ``video.mp4#12``, are not in ``done``."""
        while True:
            name = f'{self.path}#{self.count}'
            if name in done:
                if not self._capture.grab():  # without decoding it
                    return
            else:
                there, pixels = self._capture.read()
                if not there:
                    return
                yield InputImage(
                    name, self.place, pixels=pixels, video=self.path, frame=self.count
                )
            self.count += 1

    @property
    def error(self) -> str | None:
        """Why the video is not complete, after its last frame."""
        if self.count == 0:
            return 'no frame of it can be read'
        if self.stated - self.count > max(1, 0.02 * self.stated):
            return (
                f'the video breaks off after {self.count} of {self.stated} frames; '
                'those are done'
            )
        return None


def frame_count(capture: cv2.VideoCapture) -> int:
    """Return the number of frames that the file states; 0 if it doesn't."""
    return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
