"""Images that are not decoded yet, and videos, which are read and written."""

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
    """Bytes of memory that threads share; a context manager lends some of them.

    Args:
        limit (int): All bytes. Who asks for more waits until all are free.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._process = os.getpid()
        self._used = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def lend(self, size: int) -> Iterator[None]:
        """Wait until ``size`` bytes are free, first come, first served."""
        if self._process != os.getpid():  # the threads stayed in the other process
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


# Decoding takes as much as the pixels take. A model takes one byte: it waits only for
# who needs all memory.
MEMORY = MemoryBudget(DECODE_BYTES)


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated.

    PyTorch raises RuntimeError for the CPU, and OpenCV an error of its own.
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
        with self.decoded() as pixels:
            return pixels

    @contextmanager
    def decoded(self, alone: bool = False) -> Iterator[np.ndarray]:
        """Decode the image as :meth:`read` does, within the budget of memory.

        Args:
            alone (bool): Wait until no other thread decodes or predicts. Defaults to
                False.

        Yields:
            np.ndarray: The image; the block may need some copies of it.
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
        with open_regular(path):
            pass
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


class VideoWriter:
    """An MP4 file of drawn frames.

    OpenCV reports no failed write, so that the file is checked at the end.

    Args:
        path (str): The file. Its folder is made.
        rate (float): Frames per second.
        size (tuple[int, int]): Width and height in pixels; frames of other sizes are
            resized.

    Raises:
        OSError: If there can't be such a file.
        UserError: If OpenCV can't write one.
    """

    def __init__(self, path: str, rate: float, size: tuple[int, int]) -> None:
        self.path = path
        self.size = size
        self.count = 0
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        with suppress(FileNotFoundError):
            os.remove(path)  # it may be a link to an input
        open(path, 'wb').close()  # raises the reason; OpenCV doesn't
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(path, codec, rate, size)
        if not self._writer.isOpened():
            raise UserError(f'OpenCV cannot write {path}: use --no-save-vis.')

    def write(self, frame: np.ndarray) -> None:
        """Add a frame: uint8 of shape (H, W, 3), BGR."""
        if frame.shape[1::-1] != self.size:  # OpenCV would leave it out
            frame = cv2.resize(frame, self.size)
        self._writer.write(frame)
        self.count += 1

    def release(self) -> None:
        """Close the file, complete or not."""
        self._writer.release()

    def finish(self) -> None:
        """Close the file and check it.

        Raises:
            OSError: If it is not complete. FFmpeg's files can't even be opened after
                a failed write.
        """
        self.release()
        video = cv2.VideoCapture(self.path)
        found = frame_count(video)
        # Other readers of OpenCV only estimate how many frames there are.
        if not video.isOpened() or found < 0.98 * self.count - 1:
            raise OSError(
                f'{self.path}: of its {self.count} frames {found} could be written: '
                'the disk is full, or fails'
            )
