"""Graph steps of the backbones, and fast paths on CPUs."""

import warnings

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


def __getattr__(name: str):
    if name != 'use_on_cpus':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from ..mmcv_ops import use_on_cpus

    warnings.warn(
        'mobilevig_det.ops.use_on_cpus is deprecated and will be removed in 0.4; use '
        'mobilevig_det.mmcv_ops.use_on_cpus.',
        DeprecationWarning,
        stacklevel=2,
    )
    return use_on_cpus
