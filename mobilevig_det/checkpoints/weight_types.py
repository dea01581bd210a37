"""What stands where weights are to be: numbers with fractions, and finite."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from ..errors import UserError
from .finite import describe_non_finite, non_finite_weights

# Where checkpoints have their weights; others are bare.
WEIGHTS = ('state_dict', 'state_dict_ema', 'ema_state_dict', 'model')
# The last part of the names of what is never a count, an index or a mask.
FRACTIONS = frozenset(
    ('weight', 'bias', 'running_mean', 'running_var', 'layer_scale', 'layer_scale_2')
)


def check_weight_types(checkpoint: Mapping, path: str) -> None:
    """Check what a checkpoint holds as weights, of whatever model.

    Logs a warning that counts those that are NaN or infinite.

    Args:
        checkpoint (Mapping): What the file holds.
        path (str): The file, for the messages.

    Raises:
        UserError: If the ``state_dict`` is no dict, a name is no text, or
            something else than a floating-point tensor is under the name of a
            weight, a bias, a norm's statistic or a layer scale.
    """
    for where, weights in _all_weights(checkpoint, path):
        for key, value in weights.items():
            if not isinstance(key, str):
                raise UserError(
                    f'{path}: {where or "it"} holds the key {key!r}, where names of '
                    'weights are to be.'
                )
            if key.rpartition('.')[2] not in FRACTIONS:
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                found = (
                    f'a tensor of {value.dtype}'
                    if isinstance(value, Tensor)
                    else f'a {type(value).__name__}'
                )
                raise UserError(
                    f'{path}: {key} is {found}, where a floating-point tensor is '
                    'expected (float32, float16, bfloat16): it is damaged, or not '
                    "a model's weights."
                )
        counts = non_finite_weights(weights)
        if counts:
            print_log(
                f'{path}: {where + ": " if where else ""}'
                f'{describe_non_finite(counts)}. A model with them computes NaN: '
                'take an older checkpoint.',
                logger='current',
                level=logging.WARNING,
            )


def _all_weights(checkpoint: Mapping, path: str) -> Iterator[tuple[str, Mapping]]:
    found = False
    for where in WEIGHTS:
        weights: Any = checkpoint.get(where)
        if isinstance(weights, Mapping):
            found = True
            yield where, weights
        elif where == 'state_dict' and weights is not None:
            raise UserError(
                f'{path}: its state_dict is a {type(weights).__name__}, where a dict '
                'of weights is expected.'
            )
    if not found and any(isinstance(v, Tensor) for v in checkpoint.values()):
        yield '', checkpoint
