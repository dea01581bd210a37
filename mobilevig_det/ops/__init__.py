"""Graph steps of the backbones, and fast paths on CPUs."""

from ..deprecation import moved_names
from .agc import gated_max
from .cpu_process import keep_freed_memory, prepare_process_for_cpu
from .dagc import thresholded_max
from .mgc import cross_max
from .svga import max_relative

__all__ = [
    'cross_max',
    'gated_max',
    'keep_freed_memory',
    'max_relative',
    'prepare_process_for_cpu',
    'thresholded_max',
]

__getattr__ = moved_names(__name__)
