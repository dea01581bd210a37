"""The two sets of weights that an ImageNet checkpoint has.

==================  ======================  ==========================
file                raw weights             averaged weights
==================  ======================  ==========================
the authors'        ``state_dict``          ``state_dict_ema``
MMEngine's EMAHook  ``ema_state_dict``      ``state_dict``
others              ``state_dict``          none
==================  ======================  ==========================

EMAHook exchanges the two when it saves, so that whoever loads ``state_dict``
gets the averaged ones.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from .reading import without_wrapper

Weights = Mapping[str, Tensor]


class BothWeights(NamedTuple):
    """Weights by name; averaged ones are None where the file has none."""

    raw: Weights
    averaged: Weights | None


def both_weights(checkpoint: Mapping) -> BothWeights:
    """Take the raw and the averaged weights out of a checkpoint.

    Args:
        checkpoint (Mapping): What the file holds, or bare weights.
    """
    main = checkpoint.get('state_dict')
    if main is None:
        return BothWeights(without_wrapper(checkpoint), None)
    if checkpoint.get('ema_state_dict'):
        raw = {k: v for k, v in checkpoint['ema_state_dict'].items() if k != 'steps'}
        return BothWeights(without_wrapper(raw), without_wrapper(main))
    averaged = checkpoint.get('state_dict_ema')
    return BothWeights(
        without_wrapper(main), without_wrapper(averaged) if averaged else None
    )
