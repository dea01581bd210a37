"""The order of the samples, and their random streams."""

import pickle
import random

from mobilevig_det.engine.data_order import (
    SampleKey,
    SeededDataset,
    derive_seed,
    random_stream,
    with_ordered_batches,
)
from mobilevig_det.engine.training_state import (
    get_random_states,
    preserve_random_states,
    set_random_states,
)
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import TRANSFORMS
from mmengine.dataset import DefaultSampler
from tiny_training import NoisyImages
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_streams_depend_on_their_parts_alone():
    with random_stream(1, 'a'):
        first = draw()
    with random_stream(1, 'a'), preserve_random_states():
        assert draw() == first
    with random_stream(1, 'b'):
        assert draw() != first


def test_random_stream_leaves_the_generators_as_they_were():
    states = get_random_states()
    expected = draw()
    set_random_states(states)
    with random_stream(1, 'a'):
        draw()
    assert draw() == expected


def test_seeds_do_not_depend_on_the_type_of_an_index():
    seed = derive_seed(0, 5, (1, 2))
    assert seed == derive_seed(0, np.int64(5), [torch.tensor(1), 2])
    assert derive_seed(0, 5) != derive_seed(5, 0)


def batches(loader, epoch=0, first=0, seed=0):
    loader.batch_sampler.start(seed, epoch, first)
    return [[key.index for key in batch] for batch in loader.batch_sampler]


def make_loader(dataset, sampler=None, batch_sampler=BatchSampler, **kwargs):
    sampler = sampler or DefaultSampler(dataset, seed=1)
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler(sampler, 3, False),
        collate_fn=list,
        **kwargs,
    )


@pytest.mark.parametrize('batch_sampler', [BatchSampler, AspectRatioBatchSampler])
def test_epoch_can_start_at_any_batch(batch_sampler):
    plain = make_loader(NoisyImages(), batch_sampler=batch_sampler)
    loader = with_ordered_batches(plain, endless=False)
    for epoch in range(2):
        plain.batch_sampler.sampler.set_epoch(epoch)
        expected = list(plain.batch_sampler)
        assert batches(loader, epoch) == expected  # MMDetection's own order
        for first in (1, 4, len(expected)):
            # An epoch that is left in the middle keeps no half-full bucket.
            loader.batch_sampler.start(0, epoch, 0)
            next(iter(loader.batch_sampler))
            assert batches(loader, epoch, first) == expected[first:]


def test_torch_random_sampler_differs_from_epoch_to_epoch():
    """It draws its seed from torch's generator, which is restored afterwards."""
    dataset = NoisyImages()
    loader = with_ordered_batches(
        make_loader(dataset, RandomSampler(dataset)), endless=False
    )
    assert batches(loader, 0) == batches(loader, 0)
    assert batches(loader, 0) != batches(loader, 1)
    assert batches(loader, 0) != batches(loader, 0, seed=1)


class Repeating(DefaultSampler):
    num_repeats = 3

    def __iter__(self):
        return iter([index for index in super().__iter__() for _ in range(3)])


def test_repeated_samples_are_augmented_differently():
    dataset = NoisyImages()
    loader = with_ordered_batches(make_loader(dataset, Repeating(dataset)), False)
    first, second, third = next(iter(loader))
    assert first['index'] == second['index'] == third['index']
    assert not torch.equal(first['inputs'], second['inputs'])
    assert not torch.equal(second['inputs'], third['inputs'])


@TRANSFORMS.register_module(force=True)
class MixWithAnother:
    def get_indexes(self, dataset):
        return [random.randint(0, len(dataset) - 1)]

    def __call__(self, results):
        other = results['mix_results'][0]
        return {
            **results,
            'inputs': results['inputs'] + other['inputs'] * np.random.rand(),
        }


@pytest.mark.parametrize('persistent', [False, True])
def test_mixed_images_do_not_depend_on_the_number_of_workers(persistent):
    def load(workers):
        dataset = MultiImageMixDataset(
            NoisyImages(), [dict(type='mmdet.MixWithAnother')]
        )
        settings = dict(persistent_workers=persistent) if workers else {}
        plain = make_loader(dataset, num_workers=workers, **settings)
        loader = with_ordered_batches(plain, endless=False)
        found = []
        for epoch in range(2):
            loader.batch_sampler.start(0, epoch, 0)
            found += [sample['inputs'] for batch in loader for sample in batch]
        return found

    alone, two = load(0), load(2)
    assert len(alone) == len(two) == 40
    assert all(torch.equal(a, b) for a, b in zip(alone, two))
    assert not torch.equal(alone[0], alone[20])


def test_attributes_reach_the_wrapped_dataset():
    """MMDetection's hooks that switch pipelines and mixing set attributes."""
    dataset = NoisyImages()
    wrapped = pickle.loads(pickle.dumps(SeededDataset(dataset)))
    assert wrapped.metainfo == dataset.metainfo and len(wrapped) == len(dataset)
    wrapped = SeededDataset(dataset)
    wrapped.test_mode = True
    assert dataset.test_mode
    assert not hasattr(wrapped, '__getitems__')
    assert torch.equal(wrapped[3]['inputs'], dataset[3]['inputs'])
    key = SampleKey(3, (0,))
    assert torch.equal(wrapped[key]['inputs'], dataset[3]['inputs'])


def test_data_without_indices_is_an_error():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(UserError, match='without indices'):
        with_ordered_batches(DataLoader(Stream()), endless=False)
    loader = with_ordered_batches(make_loader(NoisyImages(), [] or iter(())), True)
    with pytest.raises(UserError, match='not one batch'):
        next(iter(loader.batch_sampler))
