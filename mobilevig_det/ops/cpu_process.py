"""Settings of the whole process for fast computation on CPUs.

Apart from :mod:`.cpu_fast_paths`, which changes a model, and whose import takes
seconds.
"""

import ctypes

from ..mmcv_ops import use_on_cpus

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def prepare_process_for_cpu() -> None:
    """Keep freed memory, and use this package's operators of mmcv on CPUs.

    For programs, not for libraries: the whole process changes. See
    :func:`keep_freed_memory` and :func:`..mmcv_ops.use_on_cpus`.
    """
    keep_freed_memory()
    use_on_cpus()


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
    mallopt = getattr(_c_library(), 'mallopt', None)
    return mallopt is not None and all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    )


def _c_library():
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
