"""A video that is drawn, frame by frame."""

import os
import os.path as osp

import cv2
import numpy as np

from ..errors import UserError
from .input_stream import frame_count


class DrawnVideo:
    """An MP4 file, by OpenCV, which tells nobody where a disk is full: what it has
    written is looked at in the end.

    Args:
        path (str): The file. Its folder is made.
        rate (float): Frames a second.
        size (tuple): Width and height in pixels; frames of others are resized.

    Raises:
        OSError: If there can't be such a file.
        UserError: If OpenCV can't make one.
    """

    def __init__(self, path: str, rate: float, size: tuple[int, int]) -> None:
        self.path = path
        self.size = size
        self.count = 0
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        open(path, 'wb').close()  # says why not; OpenCV doesn't
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        self._writer = cv2.VideoWriter(path, codec, rate, size)
        if not self._writer.isOpened():
            raise UserError(f'OpenCV cannot write {path}: use --no-save-vis.')

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8, (H, W, 3), BGR."""
        if frame.shape[1::-1] != self.size:  # OpenCV would leave it out
            frame = cv2.resize(frame, self.size)
        self._writer.write(frame)
        self.count += 1

    def release(self) -> None:
        """Let go of the file, whole or not."""
        self._writer.release()

    def finish(self) -> None:
        """End the file.

        Raises:
            OSError: If it isn't whole. With FFmpeg it can't even be opened, whenever
                a write has failed.
        """
        self.release()
        video = cv2.VideoCapture(self.path)
        found = frame_count(video)
        # Some of OpenCV's other readers only estimate how many there are.
        if not video.isOpened() or found < 0.98 * self.count - 1:
            raise OSError(
                f'{self.path}: of its {self.count} frames {found} could be written: '
                'the disk is full, or fails'
            )
