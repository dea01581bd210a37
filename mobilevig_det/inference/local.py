"""Run a predictor over images and videos in this process, or in those of torchrun or
Slurm, which share the inputs as fast as each of them is."""

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

CHUNK_SIZE = 4  # images that a process takes at a time: fewer make shorter waits
Item = TypeVar('Item')


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
            inputs (Inputs): Images, and videos, which come last.

        Returns:
            bool: False after a Ctrl-C.
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
        """Yield images without a record; videos are kept for later."""
        for image in inputs:
            if image.name in self.done:
                continue
            if image.is_video:
                videos.append(image)
            else:
                yield image

    def _write(self, result: Result) -> None:
        # Frames with a record are only predicted again to draw the video.
        if result.name not in self.done:
            self._append(result.to_record(self.category_ids))
        self._progress(1)

    def _append(self, record: Record) -> None:
        if record['error'] is not None:
            self.report.skip(record['image'], record['error'])
        self.writer.append(record)

    def _progress(self, number: int) -> None:
        """Have the first process's bar count the images of all processes."""
        done = self.processes.add('progress', number)
        self._bar.update(self._before + done - self._bar.n)

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
    """The processes that a launcher has started, or only this one.

    They use gloo, even with GPUs, since no tensors are exchanged: only counters in
    torch's store.

    Args:
        launcher (str): 'none', or one of MMEngine's.

    Attributes:
        rank (int): Of this process.
        size (int): Number of processes.

    Raises:
        UserError: If the launcher has not started this process.
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
        """torchrun terminates all processes when one has died."""
        print(
            f'Process {self.rank} was stopped; the same command with --resume resumes '
            'the run.',
            file=sys.stderr,
        )
        sys.exit(STOPPED)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Return this process's device.

        Raises:
            UserError: If one GPU is asked for, for all processes.
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
        """Add to a counter that all processes share; return its new value."""
        if self.size == 1:
            self._counters[name] += number
            return self._counters[name]
        return distributed_c10d._get_default_store().add(name, number)

    def share(self, items: Iterable[Item], chunk: int, name: str) -> Iterator[Item]:
        """Yield some of the items, chunk by chunk, as fast as they are consumed; no
        item goes to two processes.

        Args:
            items (Iterable): The same items in each process, in the same order.
            chunk (int): How many are taken at a time.
            name (str): Of the counter.
        """
        start = end = 0
        for number, item in enumerate(items):
            if number >= end:
                end = self.add(name, chunk)
                start = end - chunk
            if number >= start:
                yield item

    def wait(self) -> None:
        """Wait for all processes. One that died raises an error at once."""
        if self.size > 1:
            distributed.monitored_barrier(timeout=timedelta(days=99))

    def leave_interrupts(self) -> None:
        """Ignore further interrupts, of which torchrun passes on a second one, so that
        the first process can write what is done."""
        if self.size > 1:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def check_inputs(self, inputs: Inputs) -> None:
        """Raise a UserError if the first process has other inputs than this one."""
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
    """Use all cores, for torchrun sets one thread per process."""
    if os.environ.get('OMP_NUM_THREADS') == '1':
        allowed = getattr(os, 'sched_getaffinity', None)  # Linux
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        here = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        torch.set_num_threads(max(1, cores // here))
