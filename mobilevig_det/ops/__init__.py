"""Operators on PyTorch alone."""

from .agc import gated_max
from .allocator import keep_freed_memory
from .dagc import thresholded_max
from .mgc import cross_max
from .svga import max_relative

__all__ = [
    'cross_max',
    'gated_max',
    'keep_freed_memory',
    'max_relative',
    'thresholded_max',
]
