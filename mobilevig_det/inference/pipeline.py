"""Decode, predict and draw images at the same time, in threads.

Decoding, convolutions, run-length encoding and drawing release Python's lock. At small
sizes half of a prediction is Python, and two models on one core each predict more
images than one model on two.
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
MAX_MODELS = 4  # at once on a CPU; more of them would wait for Python's lock
# How long images wait for others of their size when the source has no more at hand.
MAX_BATCH_WAIT_S = 0.5
END = object()


class Pipeline:
    """Threads that predict images; a context manager, which ends them.

    Use one pipeline for many runs: with new threads for each, memory would grow, for
    glibc keeps an arena of what a model once needed for every thread that it saw.

    Args:
        predictor (Predictor): The model. On a CPU up to ``MAX_MODELS`` copies of it,
            which share the weights, run at once.
        batch_size (int | None): Images in a batch, of those that are padded to the
            same size. Defaults to None: by their size.
        drawings (Drawings, optional): Draws each result, in the threads. Defaults to
            None.

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
        """Yield the result of each image, after it has been drawn.

        Only images that are padded to the same size share a batch, so that results
        don't depend on the batch size, except for rounding. Images of one size stay in
        order; with a batch of one all do. An error in a thread, or in ``images``, is
        raised here. Close the iterator, or exhaust it, before the next run.

        Args:
            images (Iterable[InputImage]): Iterated in a thread, a few images ahead.
            ordered (bool): Yield in the order of ``images``; their ``place`` must
                count from 0. At most some dozens of results are held back. Defaults
                to False.
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
            # One that waits for a pipe ends with the process.
            feeder.join(MAX_BATCH_WAIT_S)

    def _feed(
        self, images: Iterable[InputImage], fed: queue.Queue, stopped: threading.Event
    ) -> None:
        """Have the images prepared; their futures keep the order."""
        last: Any = END
        try:
            for image in images:
                if stopped.is_set():
                    return
                fed.put(self._read_pool.submit(self._prepare, image))
        except BaseException as error:  # raised where the results are asked for
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
        result.pixels = None  # its source can be read again
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
    # OpenMP's number of threads is a thread's own.
    pool = ThreadPoolExecutor(
        threads, name, torch.set_num_threads, (torch.get_num_threads(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def model_copies(predictor: Predictor) -> Iterator[tuple[queue.SimpleQueue, int]]:
    """Yield the models that may run at once, for :meth:`.Predictor.predict_batch`, and
    how many threads to use them. None in the queue is the predictor's own model."""
    models: queue.SimpleQueue = queue.SimpleQueue()
    models.put(None)
    model = predictor.model
    threads = torch.get_num_threads()
    # A GPU's memory is for one batch; another is encoded meanwhile.
    if predictor.device != 'cpu' or not predictor.can_copy:
        yield models, 2
        return
    workers = min(threads, MAX_MODELS)
    tensors: dict[int, Any] = {
        id(t): t for t in (*model.parameters(), *model.buffers())
    }
    for _ in range(workers - 1):
        # The same weights in modules of their own: some keep state while they run.
        models.put(copy.deepcopy(model, dict(tensors)))
    torch.set_num_threads(threads // workers)
    try:
        yield models, workers
    finally:
        torch.set_num_threads(threads)
