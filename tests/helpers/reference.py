"""Golden data of MobileViG: weights, inputs, and features of the authors' code."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / 'data'
ARCHS = ('ti', 's', 'm', 'b')


def golden_value(key, shape):
    """Return the weight of that name with which the golden features were computed."""
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


def golden_state_dict(arch):
    """Return the weights of the golden features under the authors' names."""
    shapes = json.loads((DATA / f'official_state_dict_{arch}.json').read_text())
    return {key: golden_value(key, shape) for key, shape in shapes.items()}


def golden_input(height, width):
    images = np.random.default_rng(7).random((1, 3, height, width)) * 4 - 2
    return torch.from_numpy(images.astype(np.float32))


def golden_features():
    return np.load(DATA / 'golden_features.npz')
