"""Decode, predict and draw images concurrently in threads.

Threads are useful because decoding, convolutions, run-length encoding and drawing
release Python's global interpreter lock (GIL). For small images, half of the time of a
prediction is Python code, and two models with one core each are faster than one model
with two cores.
"""

import contextlib
import copy
import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from .drawings import Drawings
from .images import InputImage
from .predictors import Predictor, Prepared, SizeBucketer
from .results import Result

MAX_READERS = 8
MAX_MODELS = 4  # Models in parallel on a CPU; more would wait for the GIL.
# Time that images wait for others of their size while the source yields none.
MAX_BATCH_WAIT_S = 0.5
END = object()


class Pipeline:
    """Context manager that predicts images in a pool of threads.

    Reuse a pipeline for several runs: glibc keeps a memory arena for every thread, so
    new threads for each run would increase the memory.

    Args:
        predictor (Predictor): The model. On a CPU, up to ``MAX_MODELS`` copies that
            share the weights run in parallel.
        batch_size (int | None): Maximum number of images in a batch. Defaults to None,
            which chooses it by image size.
        drawings (Drawings, optional): Draws each result in the threads. Defaults to
            None, which draws nothing.

    Example:
        >>> with Pipeline(predictor) as pipeline:
        ...     for result in pipeline.run(images, ordered=True):
        ...         print(result)
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: int | None = None,
        drawings: Drawings | None = None,
    ) -> None:
        self.predictor = predictor
        self.batch_size = batch_size
        self.drawings = drawings
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> 'Pipeline':
        with contextlib.ExitStack() as stack:
            self._models, self.workers = stack.enter_context(
                model_copies(self.predictor)
            )
            self.readers = min(MAX_READERS, max(os.cpu_count() or 1, 2))
            self._read_pool = stack.enter_context(_pool('read', self.readers))
            self._model_pool = stack.enter_context(_pool('model', self.workers))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(
        self, images: Iterable[InputImage], ordered: bool = False
    ) -> Generator[Result, None, None]:
        """Predict images and yield their results.

        Only images that are padded to the same size share a batch, so the batch size
        changes results by rounding only. Images of the same size keep their order; with
        a batch size of 1, all images do. Exceptions in a thread or in ``images`` are
        raised here. Exhaust or close the generator before the next run.

        Args:
            images (Iterable[InputImage]): The images, iterated in a thread, a few
                images ahead.
            ordered (bool): Whether to yield results in the order of ``images``, whose
                ``place`` must count from 0. Some dozens of results may be held back.
                Defaults to False.

        Yields:
            Result: The result of each image, which has been drawn if there are
            drawings.
        """
        ahead = (self.batch_size or 1) * (self.workers + 1) + self.readers
        fed: queue.Queue = queue.Queue(ahead)
        stopped = threading.Event()
        feeder = threading.Thread(
            target=self._feed, args=(images, fed, stopped), daemon=True, name='inputs'
        )
        feeder.start()
        try:
            results = self._results(fed)
            if ordered:
                yield from _in_order(results)
            else:
                yield from results
        finally:
            stopped.set()
            with contextlib.suppress(queue.Empty):
                while True:
                    fed.get_nowait()
            # A thread that is blocked by a pipe ends with the process.
            feeder.join(MAX_BATCH_WAIT_S)

    def _feed(
        self, images: Iterable[InputImage], fed: queue.Queue, stopped: threading.Event
    ) -> None:
        """Submit the images for preprocessing, and queue their futures in order."""
        last: Any = END
        try:
            for image in images:
                if stopped.is_set():
                    return
                fed.put(self._read_pool.submit(self._prepare, image))
        except BaseException as error:  # raised by the generator of results
            last = Future()
            last.set_exception(error)
        fed.put(last)

    def _prepare(self, image: InputImage) -> Prepared | Result:
        prepared = self.predictor.prepare(image)
        return prepared if isinstance(prepared, Prepared) else self._finish(prepared)

    def _predict(self, batch: list[Prepared]) -> list[Result]:
        results = self.predictor.predict_batch(batch, self._models)
        return [self._finish(result) for result in results]

    def _finish(self, result: Result) -> Result:
        if self.drawings is not None:
            result.drawn = self.drawings.draw(result)
        result.pixels = None  # The source can be read again.
        return result

    def _results(self, fed: queue.Queue) -> Iterator[Result]:
        bucketer = SizeBucketer(self.batch_size)
        running: deque[Future] = deque()
        waiting = False
        while True:
            while running and (running[0].done() or len(running) > self.workers):
                yield from running.popleft().result()
            try:
                future = fed.get(timeout=MAX_BATCH_WAIT_S if waiting else None)
            except queue.Empty:
                future = None
            batches: Iterable[list[Prepared]] = ()
            if future is None or future is END:
                batches = bucketer.rest()
            elif isinstance(found := future.result(), Prepared):
                batches = bucketer.add(found)
            else:
                yield found
            for batch in batches:
                running.append(self._model_pool.submit(self._predict, batch))
            if future is None or future is END:
                while running:
                    yield from running.popleft().result()
            if future is END:
                return
            waiting = future is not None


def _in_order(results: Iterator[Result]) -> Iterator[Result]:
    early: dict[int, Result] = {}
    place = 0
    for result in results:
        early[result.source.place] = result
        while place in early:
            yield early.pop(place)
            place += 1


@contextlib.contextmanager
def _pool(name: str, threads: int) -> Iterator[ThreadPoolExecutor]:
    # OpenMP's number of threads is a setting of each thread.
    pool = ThreadPoolExecutor(
        threads, name, torch.set_num_threads, (torch.get_num_threads(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def model_copies(predictor: Predictor) -> Iterator[tuple[queue.SimpleQueue, int]]:
    """Copy a model so that several threads can predict in parallel.

    Args:
        predictor (Predictor): The predictor. Its model is not copied on a GPU.

    Yields:
        tuple[SimpleQueue, int]: The models for :meth:`.Predictor.predict_batch`, where
        None stands for the predictor's own model, and the number of threads to use.
    """
    models: queue.SimpleQueue = queue.SimpleQueue()
    models.put(None)
    model = predictor.model
    threads = torch.get_num_threads()
    # One batch at a time fits the GPU's memory; the other thread encodes masks.
    if predictor.device != 'cpu' or not predictor.can_copy:
        yield models, 2
        return
    workers = min(threads, MAX_MODELS)
    tensors: dict[int, Any] = {
        id(t): t for t in (*model.parameters(), *model.buffers())
    }
    for _ in range(workers - 1):
        # Copies share the weights but not the modules, some of which keep state.
        models.put(copy.deepcopy(model, dict(tensors)))
    torch.set_num_threads(threads // workers)
    try:
        yield models, workers
    finally:
        torch.set_num_threads(threads)
