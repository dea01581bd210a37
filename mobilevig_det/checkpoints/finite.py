"""Which weights are NaN or infinite."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def non_finite_weights(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """Names of the weights with values that are NaN or infinite.

    Args:
        state_dict (Mapping): Weights of any shape by name. What is no tensor,
            holds no fractions or has no values (the meta device) is passed over.

    Returns:
        dict[str, int]: How many values of each are not finite; empty where all
        are.
    """
    counts = {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
            continue
        if not (value.is_floating_point() or value.is_complex()):
            continue
        value = value.detach()
        if value.layout is not torch.strided:
            value = value.to_dense()
        if value.element_size() == 1:  # float8 knows no isfinite
            value = value.float()
        count = value.numel() - int(value.isfinite().sum())
        if count:
            counts[name] = count
    return counts


def describe_non_finite(counts: Mapping[str, int]) -> str:
    """One line of what :func:`non_finite_weights` found."""
    first = next(iter(counts))
    return (
        f'{sum(counts.values())} values of {len(counts)} weights are NaN or infinite '
        f'(first: {first}, {counts[first]} of them)'
    )
