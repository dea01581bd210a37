"""Local and distributed executor: predict images and videos in one or more processes.

The processes that torchrun or Slurm starts share the inputs dynamically: each takes the
next chunk when it has finished its last one.
"""

import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine.dist import init_dist
from torch import distributed
from torch.distributed import distributed_c10d
from tqdm import tqdm

from ..datasets import ImageFileError
from ..engine.launch import STOPPED, check_launcher, init_process_group
from ..errors import UserError
from .drawings import Drawings
from .images import InputImage, Video, VideoWriter
from .names import PIPE, SkipReport
from .pipeline import Pipeline
from .predictors import MAX_BATCH, Predictor
from .results import Record, Result, empty_record
from .sources import Inputs
from .stores import JsonLinesStore

# Images that a process takes at a time. Small chunks shorten the wait at the end.
CHUNK_SIZE = 4
Item = TypeVar('Item')


class LocalExecutor:
    """Predict every input and store a record of it as soon as it is predicted.

    Args:
        predictor (Predictor): A detector or a classifier.
        store (JsonLinesStore): The store of the records, whose ``begin`` was called.
        category_ids (list[int]): Category id of each class, by label.
        batch_size (int | None): Maximum number of images in a batch; None chooses it
            by image size.
        drawings (Drawings | None): Draws the results; None draws nothing.
        report (SkipReport): Reports the inputs that can't be used.
        processes (Processes): The processes that share the inputs.
    """

    def __init__(
        self,
        predictor: Predictor,
        store: JsonLinesStore,
        category_ids: list[int],
        batch_size: int | None,
        drawings: Drawings | None,
        report: SkipReport,
        processes: 'Processes',
    ) -> None:
        self.predictor = predictor
        self.store = store
        self.category_ids = category_ids
        self.drawings = drawings
        self.report = report
        self.processes = processes
        self.done = store.done()
        self.chunk_size = max(CHUNK_SIZE, batch_size or MAX_BATCH)
        self.pipeline = Pipeline(predictor, batch_size, drawings)

    def run(self, inputs: Inputs) -> bool:
        """Predict every input that has no record, and wait for the other processes.

        Args:
            inputs (Inputs): The images and videos; videos are predicted last.

        Returns:
            bool: True if all inputs were predicted, False after Ctrl-C.
        """
        total = inputs.count()
        self._before = min(len(self.done), total or sys.maxsize)
        videos: list[InputImage] = []
        try:
            with (
                self.store.writer(self.processes.rank) as self.writer,
                tqdm(
                    total=total,
                    initial=self._before,
                    unit='image',
                    disable=not self.processes.first,
                ) as self._bar,
                self.pipeline,
            ):
                images = self._images(inputs, videos)
                shared = self.processes.share(images, self.chunk_size, 'images')
                with closing(self.pipeline.run(shared)) as results:
                    for result in results:
                        self._write(result)
                for video in self.processes.share(videos, 1, 'videos'):
                    self._video(video)
            self.processes.add('skipped', self.report.count)
            self.processes.wait()
        except KeyboardInterrupt:
            self.processes.leave_interrupts()
            return False
        return True

    def _images(self, inputs: Inputs, videos: list[InputImage]) -> Iterator[InputImage]:
        """Yield the images without a record, and collect the videos in ``videos``."""
        for image in inputs:
            if image.name in self.done:
                continue
            if image.is_video:
                videos.append(image)
            else:
                yield image

    def _write(self, result: Result) -> None:
        # Frames that already have a record are predicted again only to be drawn.
        if result.name not in self.done:
            self._append(result.to_record(self.category_ids))
        self._progress(1)

    def _append(self, record: Record) -> None:
        if record['error'] is not None:
            self.report.skip(record['image'], record['error'])
        self.writer.append(record)

    def _progress(self, number: int) -> None:
        """Advance the progress bar, which counts the images of all processes."""
        done = self.processes.add('progress', number)
        self._bar.update(self._before + done - self._bar.n)

    def _video(self, source: InputImage) -> None:
        """Predict the frames of a video that have no record.

        If the video is drawn, all frames are predicted, because a partly written video
        can't be resumed. The record of the video itself is appended last, when its
        drawing is complete.
        """
        path, place = source.name, source.place
        try:
            if self.predictor.is_classifier:
                raise ImageFileError('classifiers do not support videos')
            video = Video(path, place)
        except ImageFileError as error:
            self._append(empty_record(place, path, str(error)))
            return
        frames = video.frames(() if self.drawings is not None else self.done)
        with ExitStack() as stack:
            writer: VideoWriter | None = None
            for result in stack.enter_context(closing(self.pipeline.run(frames))):
                if result.drawn is not None and self.drawings is not None:
                    if writer is None:
                        size = result.drawn.shape[1::-1]
                        writer = VideoWriter(self.drawings.path(path), video.rate, size)
                        stack.callback(writer.release)
                    writer.write(result.drawn)
                self._write(result)
            if writer is not None:
                writer.finish()
        if video.error is not None:
            self.report.skip(f'the end of {path}' if video.count else path, video.error)
        record = empty_record(place, path, video.error)
        self.writer.append(dict(record, frames=video.count))
        self._progress(max(0, video.stated - video.count))


class Processes:
    """The process group of a launcher, or this process alone.

    The backend is gloo even with GPUs, because no tensors are exchanged: the processes
    only share counters in PyTorch's distributed store.

    Args:
        launcher (str): 'none', or a launcher of MMEngine ('pytorch', 'slurm', 'mpi').

    Attributes:
        rank (int): The rank of this process.
        size (int): The number of processes.

    Raises:
        UserError: If this process was not started by the launcher.
    """

    def __init__(self, launcher: str) -> None:
        self.rank, self.size = 0, 1
        self._counters: Counter[str] = Counter()
        if launcher == 'none':
            return
        check_launcher(launcher)
        if launcher == 'pytorch':
            if torch.cuda.is_available():
                torch.cuda.set_device(_local_rank())
            else:
                _share_cores()
            init_process_group('gloo')
        else:
            init_dist(launcher, backend='gloo')
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        """Exit on SIGTERM, which torchrun sends to all processes when one has died."""
        print(
            f'Process {self.rank} was stopped; the same command with --resume resumes '
            'the run.',
            file=sys.stderr,
        )
        sys.exit(STOPPED)

    @property
    def first(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Return the device of this process.

        Args:
            asked (str | None): The device that the user chose, if any.

        Returns:
            str | None: The device, or None to choose it automatically.

        Raises:
            UserError: If one GPU is chosen for several processes.
        """
        if self.size == 1:
            return asked
        if asked and ':' in asked:
            raise UserError(
                f'--device {asked}: each process has a GPU of its own. Leave the flag '
                'out; CUDA_VISIBLE_DEVICES chooses GPUs.'
            )
        if asked != 'cpu' and torch.cuda.is_available():
            return f'cuda:{_local_rank()}'
        return asked

    def add(self, name: str, number: int) -> int:
        """Add a number to a counter that all processes share.

        Args:
            name (str): The name of the counter.
            number (int): The number to add.

        Returns:
            int: The new value of the counter.
        """
        if self.size == 1:
            self._counters[name] += number
            return self._counters[name]
        return distributed_c10d._get_default_store().add(name, number)

    def share(self, items: Iterable[Item], chunk: int, name: str) -> Iterator[Item]:
        """Yield this process's share of the items.

        The share is dynamic: a process takes the next chunk when it has consumed its
        last one. Each item goes to exactly one process.

        Args:
            items (Iterable): The items, equal and in the same order in each process.
            chunk (int): The number of items to take at a time.
            name (str): The name of the counter that the processes share.

        Yields:
            Item: Each item of this process.
        """
        start = end = 0
        for number, item in enumerate(items):
            if number >= end:
                end = self.add(name, chunk)
                start = end - chunk
            if number >= start:
                yield item

    def wait(self) -> None:
        """Wait for all processes, and raise an error at once if one has died."""
        if self.size > 1:
            distributed.monitored_barrier(timeout=timedelta(days=99))

    def leave_interrupts(self) -> None:
        """Ignore further interrupts if there are several processes.

        torchrun forwards a second interrupt after Ctrl-C, which would stop the first
        process while it writes the result.
        """
        if self.size > 1:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check_inputs(self, inputs: Inputs) -> None:
        """Check that all processes have the same inputs.

        Args:
            inputs (Inputs): The inputs of this process.

        Raises:
            UserError: If the inputs differ from those of the first process, or several
                processes would read from one pipe.
        """
        if self.size == 1:
            return
        if PIPE in inputs.streams:
            raise UserError(
                'Several processes cannot share a pipe: write its names into a file, '
                'names.txt, and give that.'
            )
        digest = hashlib.sha256()
        for name in inputs.described():
            digest.update(name.encode(errors='surrogatepass') + b'\0')
        names = digest.hexdigest()
        store = distributed_c10d._get_default_store()
        if self.first:
            store.set('inputs', names)
        elif store.get('inputs').decode() != names:
            raise UserError(
                'The processes see different inputs: name files that all machines see, '
                'and that do not change meanwhile.'
            )


def _local_rank() -> int:
    return int(os.environ.get('LOCAL_RANK', 0))


def _share_cores() -> None:
    """Divide all cores among the processes; torchrun sets one thread for each."""
    if os.environ.get('OMP_NUM_THREADS') == '1':
        allowed = getattr(os, 'sched_getaffinity', None)  # Linux
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        torch.set_num_threads(max(1, cores // here))
