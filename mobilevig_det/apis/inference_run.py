"""A detector over image files and videos, one after the other."""

import os.path as osp
from collections.abc import Iterable, Iterator

import cv2
import mmcv
import numpy as np
from tqdm import tqdm

from ..datasets import ImageFileError, read_image
from ..errors import UserError
from .coco_results import CocoResults
from .inference import Inferencer, NoPicture, Picture, Prediction
from .input_files import Skipped


class InferenceRun:
    """One run of a detector: images and videos go in, drawings come out.

    Args:
        inferencer (Inferencer): The detector.
        batch_size (int): Images that it sees at once.
        score_thr (float): What scores less is neither noted nor drawn.
        drawings (dict[str, str]): Where to draw each input; if empty, nothing
            is drawn.
        skipped (Skipped): Is told of what can't be used.
        progress (tqdm): Counts images and frames.

    Attributes:
        results (CocoResults): What was found.
    """

    def __init__(
        self,
        inferencer: Inferencer,
        batch_size: int,
        score_thr: float,
        drawings: dict[str, str],
        skipped: Skipped,
        progress: tqdm,
    ) -> None:
        self.inferencer = inferencer
        self.batch_size = batch_size
        self.score_thr = score_thr
        self.drawings = drawings
        self.skipped = skipped
        self.progress = progress
        self.results = CocoResults(inferencer.classes, inferencer.cfg, score_thr)

    def predict(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """The predictions, noted in the results."""
        for found in self.inferencer.predict(pictures, self.batch_size):
            self.progress.update()
            if isinstance(found, NoPicture):
                self.skipped(found.picture.name, found.reason)
            else:
                self.results.add(found)
                yield found

    def draw(self, prediction: Prediction) -> np.ndarray:
        return self.inferencer.draw(prediction, self.score_thr)

    def images(self, paths: list[str]) -> None:
        for prediction in self.predict(self._read_images(paths)):
            path = prediction.picture.name
            if self.drawings:
                mmcv.imwrite(self.draw(prediction), self.drawings[path])

    def _read_images(self, paths: list[str]) -> Iterator[Picture]:
        for path in paths:
            try:
                image = read_image(path)
            except ImageFileError as error:
                self.skipped(path, str(error))
                self.progress.update()
            else:
                id = self.results.expect(path, image)
                yield Picture(path, image, id)

    def video(self, path: str) -> None:
        if not osp.isfile(path):
            self.skipped(path, 'there is no such file')
            return
        video = cv2.VideoCapture(path)
        if not video.isOpened():
            self.skipped(
                path, 'OpenCV cannot open it: it is empty, cut off or not a video'
            )
            return
        writer = None
        try:
            for prediction in self.predict(self._read_frames(path, video)):
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

    def _read_frames(self, path: str, video: cv2.VideoCapture) -> Iterator[Picture]:
        stated = frame_count(video)
        count = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            name = f'{path}#{count}'
            id = self.results.expect(name, frame, video=path, frame=count)
            yield Picture(name, frame, id)
            count += 1
        # Some formats only estimate how many frames there are.
        if count == 0:
            self.skipped(path, 'no frame of it can be read')
        elif stated - count > max(1, 0.02 * stated):
            self.skipped(
                f'the end of {path}',
                'the video breaks off after '
                f'{count} of {stated} frames; those are done',
            )
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


def frame_count(video: cv2.VideoCapture) -> int:
    """What the file says; 0 if it doesn't."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
