"""The order of a training's samples, and the random stream of each of them.

A sample's augmentation depends on the run's seed, the epoch and its index; not on
the worker that loads it, on what was loaded before, or on where a run began.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..errors import UserError
from .random_states import own_stream


class SampleKey(NamedTuple):
    """What the workers get in place of an index."""

    index: Any
    stream: tuple  # what the sample's random numbers depend on


class SeededDataset(Dataset):
    """A data set whose samples draw from streams of their own.

    Everything else is the wrapped data set's, as hooks read and change it.

    Args:
        dataset (Dataset): Of indices.
    """

    def __init__(self, dataset: Dataset) -> None:
        object.__setattr__(self, '_wrapped', dataset)

    def __getitem__(self, key):
        if not isinstance(key, SampleKey):
            return self._wrapped[key]
        with own_stream(*key.stream):
            return self._wrapped[key.index]

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str):
        # Special methods are no attributes to be looked for: torch would find
        # __getitems__ and get round the one above, and pickle go in circles.
        if name.startswith('__') or name == '_wrapped':
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self._wrapped, name, value)


class OrderedBatches(Sampler):
    """A batch sampler that begins anywhere, by indices alone.

    Args:
        batches (Sampler): Batch sampler, of lists of indices.
        endless (bool): Whether to begin again at its end (iteration-based
            training).
    """

    def __init__(self, batches, endless: bool) -> None:
        self.batches = batches
        self.endless = endless
        self.start(seed=0)

    def start(self, seed: int, epoch: int = 0, first: int = 0) -> None:
        """Say where the next iteration over it begins.

        Args:
            seed (int): Of the run.
            epoch (int): Of the order. Endless ones count by themselves.
            first (int): How many batches are passed over.
        """
        self.seed, self.epoch, self.first = seed, epoch, first

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str):
        if name.startswith('__') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        seed, epoch, first = self.seed, self.epoch, self.first
        if self.endless:
            for number, batch in enumerate(self._passes(seed)):
                if number >= first:
                    yield self._keys(batch, (seed, number), Counter())
            return
        _set_epoch(self.batches, epoch)
        # The whole of it first: what a sampler draws is drawn from a stream of
        # its own, and one that is left in the middle keeps nothing back.
        with own_stream(seed, 'order', epoch, *self._own_rank()):
            order = list(self.batches)
        seen: Counter = Counter()
        for number, batch in enumerate(order):
            keys = self._keys(batch, (seed, epoch), seen)
            if number >= first:
                yield keys

    def _passes(self, seed: int) -> Iterator[list]:
        """The batches of one pass after the other."""
        epoch = 0
        while True:
            _set_epoch(self.batches, epoch)
            iterator = iter(self.batches)
            number = 0
            while True:
                with own_stream(seed, 'order', epoch, number, *self._own_rank()):
                    batch = next(iterator, None)
                if batch is None:
                    break
                yield batch
                number += 1
            if number == 0:
                raise UserError('The training data gives not one batch.')
            epoch += 1

    def _keys(self, batch: list, stream: tuple, seen: Counter) -> list[SampleKey]:
        """A sample that comes again has another stream each time."""
        keys = []
        for index in batch:
            keys.append(
                SampleKey(index, (*stream, index, seen[index], *self._own_rank()))
            )
            seen[index] += 1
        return keys

    def _own_rank(self) -> tuple:
        """Repeated augmentation gives the repetitions to several processes."""
        sampler = getattr(self.batches, 'sampler', None)
        return (get_rank(),) if getattr(sampler, 'num_repeats', 1) > 1 else ()


def _set_epoch(batches, epoch: int) -> None:
    for each in (batches, getattr(batches, 'sampler', None)):
        if each is not None and hasattr(each, 'set_epoch'):
            each.set_epoch(epoch)


def base_sampler(loader: DataLoader):
    """The sampler of indices below a loader's batches."""
    return getattr(loader.batch_sampler, 'sampler', loader.batch_sampler)


def with_ordered_batches(
    loader: DataLoader, endless: bool, num_workers: int | None = None
) -> DataLoader:
    """The same loader, over :class:`SeededDataset` and :class:`OrderedBatches`.

    Args:
        loader (DataLoader): As MMEngine built it.
        endless (bool): See :class:`OrderedBatches`.
        num_workers (int, optional): Others than the loader's.

    Raises:
        UserError: If it has no indices that could be passed over.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise UserError(
            'The training data is a stream without indices, or is not batched, so '
            "a resumed run cannot pass over what was seen. Use MMEngine's own "
            'loop: train_cfg.type="EpochBasedTrainLoop" or "IterBasedTrainLoop".'
        )
    workers = loader.num_workers if num_workers is None else num_workers
    settings: dict = {}
    if workers:
        settings = dict(
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            multiprocessing_context=loader.multiprocessing_context,
            worker_init_fn=loader.worker_init_fn,
            timeout=loader.timeout,
        )
    return DataLoader(
        SeededDataset(loader.dataset),
        batch_sampler=OrderedBatches(loader.batch_sampler, endless),
        num_workers=workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=loader.generator,
        **settings,
    )
