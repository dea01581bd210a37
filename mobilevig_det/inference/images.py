"""Input images, which are decoded on demand, and video input and output."""

import os
import os.path as osp
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from PIL import Image

from ..datasets import ImageFileError
from ..datasets.image_file import decode_image, decoded_bytes
from ..errors import UserError
from .names import is_address, open_regular

IMAGES = (*IMG_EXTENSIONS, '.gif')
VIDEOS = tuple('.mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .flv'.split())


DECODE_BYTES = 2**30


class MemoryBudget:
    """Limit on the memory that several threads allocate at the same time.

    Args:
        limit (int): The total in bytes. A larger request waits until nothing else is
            in use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._process = os.getpid()
        self._used = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def lend(self, size: int) -> Iterator[None]:
        """Reserve memory for the duration of a ``with`` block.

        Requests are served in the order in which they arrive.

        Args:
            size (int): The number of bytes.
        """
        # A forked process has none of its parent's threads, so nothing is in use.
        if self._process != os.getpid():
            self.__init__(self.limit)  # type: ignore[misc]
        size = min(size, self.limit)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._used + size <= self.limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify()


# Decoding reserves the memory of its pixels. A prediction reserves one byte: it waits
# only while another thread has reserved all of the memory.
MEMORY = MemoryBudget(DECODE_BYTES)


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error means that memory could not be allocated.

    PyTorch raises a RuntimeError on the CPU, and OpenCV raises a ``cv2.error``.

    Args:
        error (BaseException): The error.
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, cv2.error):
        return getattr(error, 'code', None) == cv2.Error.StsNoMem
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        part in text for part in ('out of memory', "can't allocate memory")
    )


@dataclass(slots=True)
class InputImage:
    """An input image that is decoded on demand.

    Attributes:
        name (str): The path or URL of the image; ``shard.tar/key.jpg`` for a member of
            a tar file, ``video.mp4#12`` for a video frame.
        place (int): The position of the image among the inputs, from 0.
        file (str | None): The tar or Parquet file that contains the image.
        offset (int): The position of the first byte in a tar file, or the index of the
            row group in a Parquet file.
        size (int): The number of bytes in a tar file, or the index of the row in the
            row group of a Parquet file.
        pixels (np.ndarray | None): The decoded pixels of an array or a video frame:
            uint8 of shape (H, W, 3), BGR.
        video (str | None): The path of the video, for a video frame.
        frame (int | None): The frame number, from 0, for a video frame.
        store (str | None): The URL whose credentials open ``name`` or ``file``.
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
        """Whether the name is that of a video file."""
        return self.file is None and self.name.lower().endswith(VIDEOS)

    def read(self) -> np.ndarray:
        """Decode the image and apply its EXIF orientation.

        Returns:
            np.ndarray: uint8 of shape (H, W, 3), BGR.

        Raises:
            ImageFileError: If the image can't be read or decoded.
            UserError: If an object store can't be reached.
        """
        with self.decoded() as pixels:
            return pixels

    @contextmanager
    def decoded(self, alone: bool = False) -> Iterator[np.ndarray]:
        """Decode the image as :meth:`read` does, within the memory budget.

        Args:
            alone (bool): Whether to wait until no other thread decodes or predicts.
                Defaults to False.

        Yields:
            np.ndarray: uint8 of shape (H, W, 3), BGR. The memory stays reserved
            inside the ``with`` block, with room for a few copies of the image.

        Raises:
            ImageFileError: If the image can't be read or decoded.
            UserError: If an object store can't be reached.
        """
        if self.pixels is not None and not alone:
            yield self.pixels
            return
        data = b'' if self.pixels is not None else self._content()
        with MEMORY.lend(MEMORY.limit if alone else 2 * decoded_bytes(data)):
            yield decode_image(data) if self.pixels is None else self.pixels

    def _content(self) -> bytes:
        if is_address(self.name) or (self.file and self.file.endswith('.parquet')):
            from .object_stores import read_bytes

            return read_bytes(
                self.name, self.file, self.offset, self.size, self.store or ''
            )
        with open_regular(self.file or self.name) as file:
            if self.file is None:
                return file.read()
            file.seek(self.offset)
            return file.read(self.size)


def as_image(value: Any, place: int = 0) -> InputImage:
    """Convert a path, an array or a PIL image to an InputImage.

    Args:
        value: A path, a uint8 array of shape (H, W, 3), BGR, or a PIL image.
        place (int): The position of the image among the inputs. Defaults to 0.

    Raises:
        UserError: If the type, dtype or shape is unsupported.
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


class Video:
    """Reader of the frames of a video file, by OpenCV.

    Args:
        path (str): The video file.
        place (int): The position of the video among the inputs. Defaults to 0.

    Attributes:
        rate (float): Frames per second.
        stated (int): The number of frames that the file's header states.
        count (int): The number of frames read so far.

    Raises:
        ImageFileError: If the file can't be opened as a video.
    """

    def __init__(self, path: str, place: int = 0) -> None:
        self.path = path
        self.place = place
        with open_regular(path):
            pass
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise ImageFileError(
                'OpenCV cannot open it: it is empty, cut off or not a video'
            )
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.stated = frame_count(self._capture)  # an estimate in some formats
        self.count = 0

    def frames(self, done: Container[str] = ()) -> Iterator[InputImage]:
        """Yield the frames that are not done yet.

        Args:
            done (Container[str]): Names of the frames to skip, such as
                ``video.mp4#12``. Defaults to an empty tuple.

        Yields:
            InputImage: Each frame, decoded.
        """
        while True:
            name = f'{self.path}#{self.count}'
            if name in done:
                if not self._capture.grab():  # skips the frame without decoding it
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
        """Why the video is incomplete, or None. Valid after the last frame."""
        if self.count == 0:
            return 'no frame of it can be read'
        if self.stated - self.count > max(1, 0.02 * self.stated):
            return (
                f'the video breaks off after {self.count} of {self.stated} frames; '
                'those are done'
            )
        return None


def frame_count(capture: cv2.VideoCapture) -> int:
    """Return the number of frames that a video's header states, or 0 if unknown."""
    return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


class VideoWriter:
    """Writer of MP4 videos that detects incomplete files.

    OpenCV does not report failed writes, so :meth:`finish` checks the file.

    Args:
        path (str): The video file. Its folder is created if necessary.
        rate (float): Frames per second.
        size (tuple[int, int]): Width and height in pixels. Frames of other sizes are
            resized.

    Raises:
        OSError: If the file can't be created.
        UserError: If OpenCV can't write MP4 files.
    """

    def __init__(self, path: str, rate: float, size: tuple[int, int]) -> None:
        self.path = path
        self.size = size
        self.count = 0
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        with suppress(FileNotFoundError):
            os.remove(path)  # It may be a link to an input.
        open(path, 'wb').close()  # OpenCV would not say why it fails.
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(path, codec, rate, size)
        if not self._writer.isOpened():
            raise UserError(f'OpenCV cannot write {path}: use --no-save-vis.')

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame (np.ndarray): uint8 of shape (H, W, 3), BGR.
        """
        if frame.shape[1::-1] != self.size:  # OpenCV drops frames of another size.
            frame = cv2.resize(frame, self.size)
        self._writer.write(frame)
        self.count += 1

    def release(self) -> None:
        """Close the file without checking it."""
        self._writer.release()

    def finish(self) -> None:
        """Close the file and check it.

        Raises:
            OSError: If frames are missing from the file, or it can't be opened,
                which is the case after a failed write by FFmpeg.
        """
        self.release()
        video = cv2.VideoCapture(self.path)
        found = frame_count(video)
        # Some of OpenCV's backends only estimate the number of frames.
        if not video.isOpened() or found < 0.98 * self.count - 1:
            raise OSError(
                f'{self.path}: of its {self.count} frames {found} could be written: '
                'the disk is full, or fails'
            )
