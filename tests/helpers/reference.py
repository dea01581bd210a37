"""Independent references that the tests compare with."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / 'data'
ARCHS = ('ti', 's', 'm', 'b')


def golden_value(key, shape):
    """The weight of that name which the golden features were made with."""
    u = np.random.default_rng(zlib.crc32(key.encode())).random(shape)
    if len(shape) == 4:
        value = (u - 0.5) * 2 * np.sqrt(3 / np.prod(shape[1:]))
    elif key.endswith('running_mean'):
        value = (u - 0.5) * 0.2
    elif key.endswith('running_var'):
        value = 0.5 + u
    elif key.endswith('layer_scale_2'):
        value = 0.3 + 0.4 * u
    elif key.endswith('num_batches_tracked'):
        return torch.tensor(0)
    elif key.endswith('bias'):
        value = (u - 0.5) * 0.2
    else:  # weight of a BatchNorm
        value = 0.8 + 0.4 * u
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def golden_state_dict(arch):
    """The weights of the golden features, under the authors' key names."""
    shapes = json.loads((DATA / f'official_state_dict_{arch}.json').read_text())
    return {key: golden_value(key, shape) for key, shape in shapes.items()}


def golden_input(height, width):
    images = np.random.default_rng(7).random((1, 3, height, width)) * 4 - 2
    return torch.from_numpy(images.astype(np.float32))


def golden_features():
    return np.load(DATA / 'golden_features.npz')


def naive_max_relative(x, stride):
    """The graph step, word for word from its definition (float, B C H W)."""
    height, width = x.shape[-2:]
    out = torch.zeros_like(x)
    for h in range(height):
        for w in range(width):
            here = x[:, :, h, w]
            for i in range(stride, height, stride):
                out[:, :, h, w] = torch.maximum(
                    out[:, :, h, w], here - x[:, :, (h - i) % height, w]
                )
            for i in range(stride, width, stride):
                out[:, :, h, w] = torch.maximum(
                    out[:, :, h, w], here - x[:, :, h, (w - i) % width]
                )
    return out
