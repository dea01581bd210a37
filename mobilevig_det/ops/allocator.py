"""The C library's memory allocator, told to keep what is freed."""

import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Reuse freed memory instead of handing it back to the system.

    On a CPU, feature maps of megabytes come and go with every layer. glibc
    hands them back, and the system clears every page of the next one anew:
    up to half of the time of a forward pass. From this call on the process
    holds the most that it ever needed. It is for programs, not for libraries:
    the whole process changes.

    Returns:
        bool: Whether it was done; only glibc has the switch.
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
