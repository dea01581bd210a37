"""What the authors' code of MobileViG's siblings computes, and its weights' names."""

import functools
import gzip
import json
import zlib

import numpy as np
import pytest
import torch
from reference import DATA

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
# For what takes long: one always, the others with the slow tests.
ONE_AND_OTHERS = [
    pytest.param(*which, marks=[pytest.mark.slow] if i else [])
    for i, which in enumerate(SMALLEST)
]

# One size of each family always, the others with the slow tests.
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
    """Shapes of the classifier's weights under the authors' names, in order."""
    return _names()[f'{family}_{size}']


def golden_value(key, shape):
    """The weight of that name which the golden features were made with."""
    u = np.random.default_rng(zlib.crc32(key.encode())).random(shape)
    last = key.rpartition('.')[2]
    if last == 'num_batches_tracked':
        return torch.tensor(0)
    if last == 'running_mean':
        value = (u - 0.5) * 0.2
    elif last == 'running_var':
        value = 0.5 + u
    elif last in ('layer_scale_1', 'layer_scale_2'):
        value = 0.3 + 0.4 * u
    elif last == 'temperature':
        value = (0.5 + u) * 30 * 5 ** int(key.split('.')[1])
        value = -value if u < 0.5 else value
    elif len(shape) == 4:
        value = (u - 0.5) * 2 * np.sqrt(3 / np.prod(shape[1:]))
    elif last == 'bias':
        value = (u - 0.5) * 0.2
    else:  # weight of a norm
        value = 0.8 + 0.4 * u
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def golden_state_dict(family, size):
    shapes = authors_shapes(family, size)
    return {key: golden_value(key, shape) for key, shape in shapes.items()}


def golden_input(batch, height, width, seed=7):
    images = np.random.default_rng(seed).random((batch, 3, height, width)) * 4 - 2
    return torch.from_numpy(images.astype(np.float32))


@functools.cache
def golden():
    return dict(np.load(DATA / 'golden_siblings.npz'))
