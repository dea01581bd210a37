"""Graph steps of the backbones, and fast paths on CPUs.

The two functions here set up a whole process. What changes a model is in
:mod:`.cpu_fast_paths`, whose import takes seconds.
"""

import ctypes

from ..deprecation import moved_names
from ..mmcv_ops import use_on_cpus as _use_on_cpus
from .agc import gated_max
from .dagc import thresholded_max
from .knn_graph import knn_max
from .mgc import cross_max
from .svga import max_relative

__all__ = [
    'cross_max',
    'gated_max',
    'keep_freed_memory',
    'knn_max',
    'max_relative',
    'prepare_process_for_cpu',
    'thresholded_max',
]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def prepare_process_for_cpu() -> None:
    """Keep freed memory, and use this package's operators of mmcv on CPUs.

    For programs, not for libraries: the whole process changes. See
    :func:`keep_freed_memory` and :func:`..mmcv_ops.use_on_cpus`.
    """
    keep_freed_memory()
    _use_on_cpus()


def keep_freed_memory() -> bool:
    """Reuse freed memory instead of returning it to the operating system.

    On a CPU, feature maps of several megabytes are allocated and freed with every
    layer. glibc returns them to the system, which then clears each page of the next
    one: up to half of the time of a forward pass. After this call the process keeps
    its peak memory until it ends. For programs, not for libraries: the whole process
    changes.

    Returns:
        bool: Whether the allocator was set; only glibc's can be.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    )


__getattr__ = moved_names(__name__)
