"""The order of the training samples, and a random stream for each of them.

A sample's augmentation depends on the run's seed, the epoch and its index; not on
the worker that loads it, on what was loaded before, or on where a run was resumed.
"""

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..errors import UserError

_SETTINGS = (
    *('num_workers', 'collate_fn', 'pin_memory', 'generator', 'prefetch_factor'),
    *('persistent_workers', 'multiprocessing_context', 'worker_init_fn', 'timeout'),
)


def derive_seed(*parts) -> int:
    """Return a 64-bit seed that depends on all parts, the same on every machine.

    Args:
        *parts: Numbers, strings, and tuples of them. An index gives the same seed as
            a number of Python, NumPy or torch.
    """
    text = repr(tuple(_plain(part) for part in parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')


def _plain(part):
    if isinstance(part, (list, tuple)):
        return tuple(_plain(item) for item in part)
    return int(part) if hasattr(part, '__index__') else part


@contextmanager
def random_stream(*parts) -> Iterator[None]:
    """Draw random numbers in the block from a stream of its own.

    Applies to Python, NumPy and torch on the CPU. Afterwards their generators are in
    the state of before.

    Args:
        *parts: What the stream depends on; see :func:`derive_seed`.

    Example:
        >>> with random_stream(42, 'order', 3):
        ...     order = torch.randperm(10)
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed, which would seed the GPUs as well.
    torch.default_generator.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class SampleKey(NamedTuple):
    """The index of a sample, and what its random stream depends on."""

    index: Any
    stream: tuple


class SeededDataset(Dataset):
    """Dataset whose samples draw from random streams of their own.

    Attributes are read from and set on the wrapped dataset, as hooks do.

    Args:
        dataset (Dataset): A dataset with indices.
    """

    def __init__(self, dataset: Dataset) -> None:
        object.__setattr__(self, '_wrapped', dataset)

    def __getitem__(self, key):
        if not isinstance(key, SampleKey):
            return self._wrapped[key]
        with random_stream(*key.stream):
            return self._wrapped[key.index]

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str):
        # Special methods aren't forwarded: torch would find __getitems__ and bypass
        # __getitem__, and unpickling would recurse.
        if name.startswith('__') or name == '_wrapped':
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self._wrapped, name, value)


class OrderedBatches(Sampler):
    """Batch sampler that can start at any batch without loading the ones before.

    Args:
        batches (Sampler): A batch sampler; it yields lists of indices.
        endless (bool): Whether to start the next pass at its end, as iteration-based
            training needs it.
    """

    def __init__(self, batches, endless: bool) -> None:
        self.batches = batches
        self.endless = endless
        self.start(seed=0)

    def start(self, seed: int, epoch: int = 0, first: int = 0) -> None:
        """Set where the next iteration starts.

        Args:
            seed (int): The run's seed.
            epoch (int): The epoch. Endless samplers count passes by themselves.
            first (int): Number of batches to skip.
        """
        self.seed, self.epoch, self.first = seed, epoch, first

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str):
        if name.startswith('__') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        if self.endless:
            batches = self._endless(self.seed)
        else:
            batches = self._one_epoch(self.seed, self.epoch)
        return itertools.islice(batches, self.first, None)

    def _one_epoch(self, seed: int, epoch: int) -> Iterator[list[SampleKey]]:
        _set_epoch(self.batches, epoch)
        # All at once: the sampler's draws come from one stream, and no half-filled
        # bucket is left if the epoch is abandoned.
        with random_stream(seed, 'order', epoch, *self._own_rank()):
            order = list(self.batches)
        seen: Counter = Counter()
        for batch in order:
            yield self._keys(batch, (seed, epoch), seen)

    def _endless(self, seed: int) -> Iterator[list[SampleKey]]:
        number = 0
        for epoch in itertools.count():
            _set_epoch(self.batches, epoch)
            iterator = iter(self.batches)
            for position in itertools.count():
                with random_stream(seed, 'order', epoch, position, *self._own_rank()):
                    batch = next(iterator, None)
                if batch is None:
                    break
                yield self._keys(batch, (seed, number), Counter())
                number += 1
            if position == 0:
                raise UserError(
                    'The training data has not one batch. Use a smaller batch_size, or '
                    'check the annotations and filter_cfg.'
                )

    def _keys(self, batch: list, stream: tuple, seen: Counter) -> list[SampleKey]:
        """Give each occurrence of a sample a stream of its own."""
        keys = []
        for index in batch:
            keys.append(
                SampleKey(index, (*stream, index, seen[index], *self._own_rank()))
            )
            seen[index] += 1
        return keys

    def _own_rank(self) -> tuple:
        """Repeated augmentation gives the repetitions of a sample to several ranks."""
        sampler = getattr(self.batches, 'sampler', None)
        return (get_rank(),) if getattr(sampler, 'num_repeats', 1) > 1 else ()


def _set_epoch(batches, epoch: int) -> None:
    for each in (batches, getattr(batches, 'sampler', None)):
        if each is not None and hasattr(each, 'set_epoch'):
            each.set_epoch(epoch)


def base_sampler(loader: DataLoader):
    """Return the sampler of indices that a loader's batch sampler draws from."""
    return getattr(loader.batch_sampler, 'sampler', loader.batch_sampler)


def with_ordered_batches(loader: DataLoader, endless: bool) -> DataLoader:
    """Rebuild a loader with :class:`SeededDataset` and :class:`OrderedBatches`.

    Args:
        loader (DataLoader): As MMEngine built it.
        endless (bool): See :class:`OrderedBatches`.

    Returns:
        DataLoader: A new loader with the same settings.

    Raises:
        UserError: If the dataset has no indices, so that none can be skipped.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise UserError(
            'The training data is a stream without indices, or is not batched, so '
            "a resumed run cannot skip what was seen. Use MMEngine's own loop: "
            'train_cfg.type="EpochBasedTrainLoop" or "IterBasedTrainLoop".'
        )
    return DataLoader(
        SeededDataset(loader.dataset),
        batch_sampler=OrderedBatches(loader.batch_sampler, endless),
        **{name: getattr(loader, name) for name in _SETTINGS},
    )
