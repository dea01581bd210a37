"""Run a predictor over images and videos in this process, or in those of torchrun."""

from collections.abc import Iterator
from contextlib import closing

from ...datasets import ImageFileError
from ..drawings import Drawings, VideoWriter
from ..encoder import RecordEncoder
from ..pipeline import Pipeline
from ..predictors import MAX_BATCH, Predictor
from ..records import Record, empty_record
from ..sources import InputImage, Inputs, SkipReport, Video
from ..stores import JsonLinesStore
from .torchrun import Processes, SharedProgress

CHUNK_SIZE = 4  # images that a process takes at a time: fewer make shorter waits


class LocalExecutor:
    """Gives every input a record; each image and frame has it within moments.

    Args:
        predictor (Predictor): A detector or a classifier.
        store (JsonLinesStore): Where the records go, after its ``begin``.
        category_ids (list[int]): Ids of the model's classes.
        batch_size (int | None): Images in a batch; None: by their size.
        drawings (Drawings | None): Draws the results; None: nothing is drawn.
        report (SkipReport): Told of what cannot be used.
        processes (Processes): Those that share the inputs.
    """

    def __init__(
        self,
        predictor: Predictor,
        store: JsonLinesStore,
        category_ids: list[int],
        batch_size: int | None,
        drawings: Drawings | None,
        report: SkipReport,
        processes: Processes,
    ) -> None:
        self.predictor = predictor
        self.store = store
        self.drawings = drawings
        self.report = report
        self.processes = processes
        self.progress = SharedProgress(processes)
        self.done = store.done()
        self.chunk_size = max(CHUNK_SIZE, batch_size or MAX_BATCH)
        encoder = RecordEncoder(category_ids, drawings, self.done)
        self.pipeline = Pipeline(predictor, batch_size, encoder)

    def run(self, inputs: Inputs) -> bool:
        """Predict every input that has no record, and wait for the other processes.

        Args:
            inputs (Inputs): Images, and videos, which come last.

        Returns:
            bool: False after a Ctrl-C.
        """
        self.progress.begin(inputs.count(), len(self.done))
        videos: list[InputImage] = []
        try:
            with (
                self.store.writer(self.processes.rank) as self.writer,
                self.progress,
                self.pipeline,
            ):
                images = self._images(inputs, videos)
                shared = self.processes.share(images, self.chunk_size, 'images')
                with closing(self.pipeline.run(shared)) as results:
                    for encoded in results:
                        self._write(encoded.record)
                        self.progress.update()
                for video in self.processes.share(videos, 1, 'videos'):
                    self._video(video)
            self.processes.add('skipped', self.report.count)
            self.processes.wait()
        except KeyboardInterrupt:
            self.processes.leave_interrupts()
            return False
        return True

    def _images(self, inputs: Inputs, videos: list[InputImage]) -> Iterator[InputImage]:
        """Yield images without a record; videos are kept for later."""
        for image in inputs:
            if image.name in self.done:
                continue
            if image.is_video:
                videos.append(image)
            else:
                yield image

    def _write(self, record: Record | None) -> None:
        if record is None:
            return
        if record['error'] is not None:
            self.report.skip(record['image'], record['error'])
        self.writer.append(record)

    def _video(self, source: InputImage) -> None:
        """Predict the frames of a video that have no record; all of them if it is
        drawn, for half a video can't be resumed.

        The last record is the video's own, once its drawing is complete.
        """
        path, place = source.name, source.place
        try:
            if self.predictor.is_classifier:
                raise ImageFileError('a classifier looks at images only')
            video = Video(path, place)
        except ImageFileError as error:
            self._write(empty_record(place, path, str(error)))
            return
        frames = video.frames(() if self.drawings is not None else self.done)
        writer: VideoWriter | None = None
        try:
            with closing(self.pipeline.run(frames)) as results:
                for encoded in results:
                    if encoded.drawn is not None and self.drawings is not None:
                        if writer is None:
                            size = encoded.drawn.shape[1::-1]
                            path_drawn = self.drawings.path(path)
                            writer = VideoWriter(path_drawn, video.rate, size)
                        writer.write(encoded.drawn)
                    self._write(encoded.record)
                    self.progress.update()
            if writer is not None:
                writer.finish()
        finally:
            if writer is not None:
                writer.release()
        if video.error is not None:
            self.report.skip(f'the end of {path}' if video.count else path, video.error)
        record = empty_record(place, path, video.error)
        self.writer.append(dict(record, frames=video.count))
        self.progress.update(max(0, video.stated - video.count))
