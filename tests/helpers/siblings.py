"""Golden data of MobileViG's siblings: features and names of the authors' weights."""

import functools
import gzip
import json

import numpy as np
import pytest
import torch
from reference import DATA, golden_value

SIZES = dict(
    mobilevigv2=('ti', 's', 'm', 'b'),
    greedyvig=('s', 'm', 'b'),
    rapidnet=('ti', 's', 'm', 'b'),
    adaptvig=('s', 'm', 'b'),
)
CLASSES = dict(
    mobilevigv2='MobileViGv2',
    greedyvig='GreedyViG',
    rapidnet='RapidNet',
    adaptvig='AdaptViG',
)
ALL = [(family, size) for family, sizes in SIZES.items() for size in sizes]
SMALLEST = [(family, sizes[0]) for family, sizes in SIZES.items()]
# For slow tests: the first family by default, the others with the slow tests.
ONE_AND_OTHERS = [
    pytest.param(*which, marks=[pytest.mark.slow] if i else [])
    for i, which in enumerate(SMALLEST)
]

# One size of each family by default, the others with the slow tests.
ONE_EACH_AND_OTHERS = [
    pytest.param(*which, marks=[] if which in SMALLEST else [pytest.mark.slow])
    for which in ALL
]
# Parameters of the classifiers that the authors' code builds.
PARAMETERS = {
    ('mobilevigv2', 'ti'): 5695824,
    ('mobilevigv2', 's'): 7767632,
    ('mobilevigv2', 'm'): 15471504,
    ('mobilevigv2', 'b'): 27878864,
    ('greedyvig', 's'): 11983376,
    ('greedyvig', 'm'): 21928112,
    ('greedyvig', 'b'): 30905296,
    ('rapidnet', 'ti'): 6627840,
    ('rapidnet', 's'): 9213088,
    ('rapidnet', 'm'): 17304496,
    ('rapidnet', 'b'): 30556496,
    ('adaptvig', 's'): 8685785,
    ('adaptvig', 'm'): 18062812,
    ('adaptvig', 'b'): 26987231,
}


@functools.cache
def _names():
    return json.loads(gzip.decompress((DATA / 'sibling_keys.json.gz').read_bytes()))


def authors_shapes(family, size):
    """Return the shapes of the classifier's weights by the authors' names, in order."""
    return _names()[f'{family}_{size}']


def golden_state_dict(family, size):
    shapes = authors_shapes(family, size)
    return {key: golden_value(key, shape) for key, shape in shapes.items()}


def golden_input(batch, height, width, seed=7):
    images = np.random.default_rng(seed).random((batch, 3, height, width)) * 4 - 2
    return torch.from_numpy(images.astype(np.float32))


@functools.cache
def golden():
    return dict(np.load(DATA / 'golden_siblings.npz'))
