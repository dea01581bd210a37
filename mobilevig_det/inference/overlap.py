"""Reading, the model and what is made of its results at once, in threads.

Decoding, the convolutions and run lengths leave Python's lock to others; at small
sizes half of a prediction is Python, and two models on a core each do more than one
on two.
"""

import contextlib
import copy
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch

from .inferencer import NoPicture, Picture, PictureModel, Prediction, Prepared, SameSize

Item = TypeVar('Item')
Result = TypeVar('Result')

MOST_THREADS = 8  # that read and decode
MOST_MODELS = 4  # at once on a CPU: more of them would wait for Python's lock
# Pictures wait so long for others of their size, where no more are at hand: what
# comes through a pipe is not held back.
PATIENCE = 0.5  # seconds
END = object()


def overlapped(
    inferencer: PictureModel,
    items: Iterable[Item],
    read: Callable[[Item], Picture | Result],
    finish: Callable[[Prediction | NoPicture], Result],
    batch_size: int | None,
    threads: 'Threads | None' = None,
) -> Generator[Result, None, None]:
    """What ``finish`` makes of each item, as :meth:`.PictureModel.predict` would have
    one after the other.

    Batches are the same, but those that a slow source does not fill up in time (see
    ``PATIENCE``), and so are the results, but for rounding. Pictures of one size stay
    in order; with a batch of one all do. An error in a thread, or in ``items``, is
    raised here. Close the iterator, or use it up, to end the threads, those that
    weren't given.

    Args:
        inferencer (PictureModel): The model.
        items (Iterable): What to look at. Is iterated in a thread, a few ahead.
        read (Callable): Gives the picture of an item, or what stands for it where
            there is none. Is called in several threads.
        finish (Callable): Likewise, of what was seen.
        batch_size (int | None): Pictures that the model sees at once; None: by their
            size.
        threads (Threads, optional): The inferencer's, where it is called many times.
            Defaults to None: some of its own.
    """
    with contextlib.ExitStack() as stack:
        threads = threads or stack.enter_context(threads_of(inferencer))
        ahead = (batch_size or 1) * (threads.workers + 1) + threads.readers
        stages = _Stages(inferencer, read, finish, threads.models, ahead)
        feeder = threading.Thread(
            target=stages.feed, args=(items, threads.read), daemon=True, name='inputs'
        )
        feeder.start()
        stack.callback(stages.stop, feeder)  # before the pools
        yield from stages.results(SameSize(batch_size), threads.model, threads.workers)


class Threads(NamedTuple):
    """Pools of threads that read, and that look with one of the models."""

    models: queue.SimpleQueue
    readers: int
    workers: int
    read: ThreadPoolExecutor
    model: ThreadPoolExecutor


@contextlib.contextmanager
def threads_of(inferencer: PictureModel) -> Iterator[Threads]:
    """Threads for many calls of :func:`overlapped`, one after the other.

    With new ones for each call, memory grows: glibc lets a thread have any one of
    eight arenas a core, and each arena keeps what a model once needed.
    """
    with contextlib.ExitStack() as stack:
        models, workers = stack.enter_context(_models(inferencer))
        readers = min(MOST_THREADS, max(os.cpu_count() or 1, 2))
        pools = [
            stack.enter_context(_pool(name, number))
            for name, number in (('read', readers), ('model', workers))
        ]
        yield Threads(models, readers, workers, *pools)


@contextlib.contextmanager
def _pool(name: str, threads: int) -> Iterator[ThreadPoolExecutor]:
    # OpenMP's number is a thread's own.
    pool = ThreadPoolExecutor(
        threads, name, torch.set_num_threads, (torch.get_num_threads(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _models(inferencer: PictureModel) -> Iterator[tuple[queue.SimpleQueue, int]]:
    """Models that may run at once, and how many threads to use them."""
    model = inferencer.model
    models: queue.SimpleQueue = queue.SimpleQueue()
    models.put(model)
    device = next((p.device.type for p in model.parameters()), 'cpu')
    threads = torch.get_num_threads()
    workers = min(threads, MOST_MODELS)
    if device != 'cpu':  # its memory is for one batch; one is finished meanwhile
        yield models, 2
        return
    tensors: dict[int, Any] = {
        id(t): t for t in (*model.parameters(), *model.buffers())
    }
    for _ in range(workers - 1):
        # The same weights in modules of their own: some keep a thing or two.
        models.put(copy.deepcopy(model, dict(tensors)))
    torch.set_num_threads(threads // workers)
    try:
        yield models, workers
    finally:
        torch.set_num_threads(threads)


class _Stages:
    """What the threads of :func:`overlapped` do."""

    def __init__(
        self,
        inferencer: PictureModel,
        read: Callable,
        finish: Callable,
        models: queue.SimpleQueue,
        ahead: int,
    ) -> None:
        self.inferencer = inferencer
        self.read = read
        self.finish = finish
        self.models = models
        self.read_ahead: queue.Queue = queue.Queue(ahead)
        self.stopped = False

    def feed(self, items: Iterable, pool: ThreadPoolExecutor) -> None:
        """Have the items read; their futures keep the order."""
        try:
            for item in items:
                if self.stopped:
                    return
                self.read_ahead.put(pool.submit(self.prepare, item))
            last: Any = END
        except BaseException as error:  # is raised where the results are asked for
            last = Future()
            last.set_exception(error)
        self.read_ahead.put(last)

    def prepare(self, item: Any) -> Any:
        picture = self.read(item)
        if not isinstance(picture, Picture):
            return picture
        prepared = self.inferencer.prepare(picture)
        return self.finish(prepared) if isinstance(prepared, NoPicture) else prepared

    def look_at(self, batch: list[Prepared]) -> list:
        model = self.models.get()
        try:
            predictions = self.inferencer.look_at(batch, model)
        finally:
            self.models.put(model)
        return [self.finish(prediction) for prediction in predictions]

    def results(
        self, groups: SameSize, pool: ThreadPoolExecutor, workers: int
    ) -> Iterator:
        running: deque[Future] = deque()
        waiting = False
        while True:
            while running and (running[0].done() or len(running) > workers):
                yield from running.popleft().result()
            try:
                future = self.read_ahead.get(timeout=PATIENCE if waiting else None)
            except queue.Empty:
                future = None
            batches: list[list[Prepared]] = []
            if future is None or future is END:
                batches = groups.rest()
            else:
                found = future.result()
                if not isinstance(found, Prepared):
                    yield found
                elif batch := groups.add(found):
                    batches = [batch]
            for batch in batches:
                running.append(pool.submit(self.look_at, batch))
            if future is None or future is END:
                while running:
                    yield from running.popleft().result()
            if future is END:
                return
            waiting = future is not None

    def stop(self, feeder: threading.Thread) -> None:
        """End the feeder's thread; one that waits for a pipe ends with the process."""
        self.stopped = True
        with contextlib.suppress(queue.Empty):
            while True:
                self.read_ahead.get_nowait()
        feeder.join(PATIENCE)
