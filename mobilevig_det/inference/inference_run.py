"""A model over image files and videos, one after the other."""

import os.path as osp
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np

from ..datasets import ImageFileError
from .detection_rows import error_row, found_row
from .drawings import Drawings
from .drawn_video import DrawnVideo
from .inferencer import MAX_BATCH, NoPicture, Picture, PictureModel, Prediction
from .input_files import Input, Skipped
from .input_stream import Inputs, frame_count
from .overlap import overlapped
from .processes import Processes, SharedProgress
from .row_folder import RowFolder

# Images that a process takes at a time: the last ones to finish wait for no more.
FEW = 4


class Result(NamedTuple):
    """What is kept of an image or a frame."""

    row: dict | None  # None where it has one already
    drawn: np.ndarray | None = None  # of a frame


class InferenceRun:
    """One run of a model: images and videos go in, rows and drawings come out.

    A row is written once its drawing is, so that what has a row need not be done
    again.

    Args:
        inferencer (PictureModel): A detector or, without drawings, a classifier.
        batch_size (int | None): Images that it sees at once; None: by their size.
        score_thr (float): What scores less is neither noted nor drawn.
        category_ids (list[int]): Of the model's classes.
        drawings (Drawings | None): Where to draw each input; None draws nothing.
        skipped (Skipped): Is told of what can't be used.
        processes (Processes): Share the inputs.
    """

    def __init__(
        self,
        inferencer: PictureModel,
        batch_size: int | None,
        score_thr: float,
        category_ids: list[int],
        drawings: Drawings | None,
        skipped: Skipped,
        processes: Processes,
    ) -> None:
        self.inferencer = inferencer
        self.batch_size = batch_size
        self.score_thr = score_thr
        self.category_ids = category_ids
        self.drawings = drawings
        self.skipped = skipped
        self.processes = processes
        self.progress = SharedProgress(processes)
        self._pencil = threading.Lock()  # MMDetection's visualizer is one

    def finish(self, folder: RowFolder, inputs: Inputs) -> bool:
        """Give every input a row that has none, and wait for the other processes.

        Args:
            folder (RowFolder): Gets the rows, and knows what has one.
            inputs (Inputs): Images, and videos, which are looked at last.

        Returns:
            bool: False after a Ctrl-C.
        """
        self.done, self.rows = folder.done(), folder.writer(self.processes.rank)
        self.progress.begin(inputs.count(), len(self.done))
        videos: list[tuple[int, str]] = []
        images = self._images(inputs, videos)
        few = max(FEW, self.batch_size or MAX_BATCH)
        try:
            with self.rows, self.progress:
                for result in self._results(
                    self.processes.share(images, few, 'images'), self._read
                ):
                    self._write(result.row)
                for place, path in self.processes.share(videos, 1, 'videos'):
                    self.video(place, path)
            self.processes.add('skipped', self.skipped.count)
            self.processes.wait()
        except KeyboardInterrupt:
            self.processes.leave_interrupts()
            return False
        return True

    def _images(
        self, inputs: Inputs, videos: list[tuple[int, str]]
    ) -> Iterator[tuple[int, Input]]:
        """Those without a row, with their places; videos are put aside."""
        for place, found in enumerate(inputs):
            if found.name in self.done:
                continue
            if found.is_video:
                videos.append((place, found.name))
            else:
                yield place, found

    def _results(
        self, items: Iterable[Any], read: Callable[[Any], Picture | Result]
    ) -> Iterator[Result]:
        with closing(
            overlapped(self.inferencer, items, read, self._keep, self.batch_size)
        ) as results:
            for result in results:
                yield result
                self.progress.update()

    def _read(self, item: tuple[int, Input]) -> Picture | Result:
        place, found = item
        try:
            return Picture(found.name, found.image(), place)
        except ImageFileError as error:
            return Result(dict(place=place, **error_row(found.name, str(error))))

    def _keep(self, found: Prediction | NoPicture) -> Result:
        """Row and drawing. Threads do it."""
        picture = found.picture
        drawn = None
        row = found_row(found, self.category_ids, self.score_thr)
        if self.drawings is not None and isinstance(found, Prediction):
            with self._pencil:
                drawn = self.inferencer.draw(found, self.score_thr)
        if picture.frame is None:
            if self.drawings is not None and drawn is not None:
                mmcv.imwrite(drawn, self.drawings[picture.name])
            return Result(dict(place=picture.id, **row))
        if picture.name in self.done:  # only looked at again for the video to draw
            return Result(None, drawn)
        frame = dict(video=picture.video, frame=picture.frame)
        return Result(dict(place=picture.id, **row, **frame), drawn)

    def _write(self, row: dict | None) -> None:
        if row is None:
            return
        if row['error'] is not None:
            self.skipped(row['image'], row['error'])
        self.rows.append(row)

    def video(self, place: int, path: str) -> None:
        """Look at the frames of a video that have no rows; at all of them where they
        are drawn, for half a video can't be gone on with.

        The last row is the video's own, once its drawing is whole.
        """
        # Closed when nobody reads it any more, a thread that was stopped included.
        video = cv2.VideoCapture(path)
        reason = self.inferencer.no_videos
        if reason is not None:
            self.progress.update(frame_count(video))
        elif not osp.isfile(path):
            reason = 'there is no such file'
        elif not video.isOpened():
            reason = 'OpenCV cannot open it: it is empty, cut off or not a video'
        if reason is not None:
            self._write(dict(place=place, **error_row(path, reason)))
            return
        stated = frame_count(video)
        rate = video.get(cv2.CAP_PROP_FPS) or 25.0
        done = () if self.drawings is not None else self.done
        frames = _Frames(video, place, path, done)
        writer: DrawnVideo | None = None
        try:
            for result in self._results(frames, lambda picture: picture):
                if result.drawn is not None and self.drawings is not None:
                    if writer is None:
                        size = (result.drawn.shape[1], result.drawn.shape[0])
                        writer = DrawnVideo(self.drawings[path], rate, size)
                    writer.write(result.drawn)
                self._write(result.row)
            if writer is not None:
                writer.finish()
        finally:
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
