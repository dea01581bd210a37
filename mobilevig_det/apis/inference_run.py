"""A detector over image files and videos, one after the other."""

import os.path as osp
from collections.abc import Container, Iterable, Iterator

import cv2
import mmcv
import numpy as np

from ..datasets import ImageFileError, read_image
from ..errors import UserError
from .detection_rows import Row, error_row, found_row
from .inference import Inferencer, NoPicture, Picture, Prediction
from .input_files import Skipped
from .processes import Processes, SharedProgress
from .row_folder import RowFolder

# Images that a process takes at a time: the last ones to finish wait for no more.
FEW = 4


class InferenceRun:
    """One run of a detector: images and videos go in, rows and drawings come out.

    A row is written once its drawing is, so that what has a row need not be done
    again.

    Args:
        inferencer (Inferencer): The detector.
        batch_size (int): Images that it sees at once.
        score_thr (float): What scores less is neither noted nor drawn.
        category_ids (list[int]): Of the model's classes.
        drawings (dict[str, str]): Where to draw each input; if empty, nothing
            is drawn.
        folder (RowFolder): Gets the rows, and knows what has one.
        skipped (Skipped): Is told of what can't be used.
        processes (Processes): Share the inputs.
    """

    def __init__(
        self,
        inferencer: Inferencer,
        batch_size: int,
        score_thr: float,
        category_ids: list[int],
        drawings: dict[str, str],
        folder: RowFolder,
        skipped: Skipped,
        processes: Processes,
    ) -> None:
        self.inferencer = inferencer
        self.batch_size = batch_size
        self.score_thr = score_thr
        self.category_ids = category_ids
        self.drawings = drawings
        self.done = folder.done()
        self.skipped = skipped
        self.processes = processes
        self.rows = folder.writer(processes.rank)
        self.progress = SharedProgress(processes)

    def finish(self, images: list[str], videos: list[str]) -> bool:
        """Give every input a row that has none, and wait for the other processes.

        Returns:
            bool: False after a Ctrl-C.
        """
        total = len(images) + sum(map(_count_frames, videos))
        self.progress.begin(total, min(len(self.done), total))
        try:
            with self.rows, self.progress:
                self.images(self._share(images, 0, max(FEW, self.batch_size)))
                for place, path in self._share(videos, len(images), 1):
                    self.video(place, path)
            self.processes.add('skipped', self.skipped.count)
            self.processes.wait()
        except KeyboardInterrupt:
            self.processes.leave_interrupts()
            return False
        return True

    def _share(
        self, paths: list[str], first: int, few: int
    ) -> Iterator[tuple[int, str]]:
        left = (item for item in enumerate(paths, first) if item[1] not in self.done)
        return self.processes.share(left, few, f'from {first}')

    def predict(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """The predictions, each written as a row when the next is asked for."""
        for found in self.inferencer.predict(pictures, self.batch_size):
            self.progress.update()
            picture = found.picture
            if isinstance(found, NoPicture):
                if self._has_row(picture):
                    continue
                self.skipped(picture.name, found.reason)
                height, width = picture.image.shape[:2]
                row = error_row(picture.name, found.reason, width, height)
            else:
                yield found
                if self._has_row(picture):
                    continue
                row = found_row(found, self.category_ids, self.score_thr)
            self._write(row, picture)

    def _has_row(self, picture: Picture) -> bool:
        """Of a frame that was only looked at again for the video to draw."""
        return picture.frame is not None and picture.name in self.done

    def _write(self, row: Row, picture: Picture) -> None:
        more: dict[str, object] = {}
        if picture.frame is not None:
            more = dict(video=picture.video, frame=picture.frame)
        self.rows.append(dict(place=picture.id, **row, **more))

    def _skip(self, place: int, path: str, reason: str) -> None:
        self.skipped(path, reason)
        self.rows.append(dict(place=place, **error_row(path, reason)))

    def draw(self, prediction: Prediction) -> np.ndarray:
        return self.inferencer.draw(prediction, self.score_thr)

    def images(self, paths: Iterable[tuple[int, str]]) -> None:
        """Look at image files.

        Args:
            paths (Iterable[tuple[int, str]]): The place of each among the inputs,
                and its path.
        """
        for prediction in self.predict(self._read_images(paths)):
            path = prediction.picture.name
            if self.drawings:
                mmcv.imwrite(self.draw(prediction), self.drawings[path])

    def _read_images(self, paths: Iterable[tuple[int, str]]) -> Iterator[Picture]:
        for place, path in paths:
            try:
                image = read_image(path)
            except ImageFileError as error:
                self._skip(place, path, str(error))
                self.progress.update()
            else:
                yield Picture(path, image, place)

    def video(self, place: int, path: str) -> None:
        """Look at the frames of a video that have no rows; at all of them where they
        are drawn, for half a video can't be gone on with.

        The last row is the video's own, once its drawing is whole.
        """
        if not osp.isfile(path):
            self._skip(place, path, 'there is no such file')
            return
        video = cv2.VideoCapture(path)
        if not video.isOpened():
            reason = 'OpenCV cannot open it: it is empty, cut off or not a video'
            self._skip(place, path, reason)
            return
        stated = _stated(video)
        frames = _Frames(video, place, path, () if self.drawings else self.done)
        writer = None
        try:
            for prediction in self.predict(frames):
                if not self.drawings:
                    continue
                drawn = self.draw(prediction)
                if writer is None:
                    writer = self._writer(path, video, drawn)
                writer.write(drawn)
        finally:
            video.release()
            if writer is not None:
                writer.release()
        self._end_video(place, path, frames.count, stated)

    def _end_video(self, place: int, path: str, count: int, stated: int) -> None:
        reason = None
        # Some formats only estimate how many frames there are.
        if count == 0:
            reason = 'no frame of it can be read'
            self.skipped(path, reason)
        elif stated - count > max(1, 0.02 * stated):
            reason = (
                f'the video breaks off after {count} of {stated} frames; those are done'
            )
            self.skipped(f'the end of {path}', reason)
        self.rows.append(dict(place=place, **error_row(path, reason), frames=count))
        self.progress.update(max(0, stated - count))

    def _writer(
        self, path: str, video: cv2.VideoCapture, drawn: np.ndarray
    ) -> cv2.VideoWriter:
        writer = cv2.VideoWriter(
            self.drawings[path],
            cv2.VideoWriter_fourcc(*'mp4v'),
            video.get(cv2.CAP_PROP_FPS) or 25.0,
            (drawn.shape[1], drawn.shape[0]),
        )
        if not writer.isOpened():
            raise UserError(
                f'OpenCV cannot write {self.drawings[path]}: use --no-save-vis.'
            )
        return writer


class _Frames:
    """The frames of a video but for those that are done; counts all of them."""

    def __init__(
        self, video: cv2.VideoCapture, place: int, path: str, done: Container[str]
    ) -> None:
        self.video = video
        self.place = place
        self.path = path
        self.done = done
        self.count = 0

    def __iter__(self) -> Iterator[Picture]:
        while True:
            name = f'{self.path}#{self.count}'
            if name in self.done:
                if not self.video.grab():  # without its picture
                    return
            else:
                there, image = self.video.read()
                if not there:
                    return
                yield Picture(name, image, self.place, self.path, self.count)
            self.count += 1


def _stated(video: cv2.VideoCapture) -> int:
    """How many frames the file says it has; 0 if it doesn't."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _count_frames(path: str) -> int:
    return _stated(cv2.VideoCapture(path))
