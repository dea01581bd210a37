"""Results of compiled mmcv 2.1.0: the complete set if available, else a subset."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
WHOLE = ROOT.parent / 'shared/reference/mmcv_ops/reference.npz'


def load_cases(trimmed, operator):
    """Return the tensors of each case of an operator by case and tensor name."""
    cases = {}
    with np.load(WHOLE if WHOLE.exists() else ROOT / 'tests/data' / trimmed) as file:
        for key in file.files:
            name, case, array = key.split('/')
            if name == operator:
                tensor = torch.from_numpy(file[key])
                cases.setdefault(case, {})[array] = tensor
    return cases


def largest_difference(actual, expected):
    """Return the largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape
    if not expected.numel():
        return 0
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp(min=1e-30))


def _is_compiled():
    """Return whether mmcv has its compiled extension instead of our stand-in."""
    try:
        spec = importlib.util.find_spec('mmcv._ext')
    except ImportError:
        return False
    return spec is not None and not str(spec.origin).endswith('.py')


needs_compiled_mmcv = pytest.mark.skipif(
    not _is_compiled(), reason='mmcv has no compiled operators'
)


def compiled_operator(name):
    """Return mmcv's operator, also where ours replaces it on CPUs."""
    operator = getattr(importlib.import_module('mmcv._ext'), name)
    return getattr(operator, 'compiled', operator)
