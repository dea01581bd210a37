"""Freed memory is reused: counts the pages that the system had to clear."""

import ctypes
import platform
import statistics
import subprocess
import sys

from mobilevig_det.ops import keep_freed_memory

import pytest

SCRIPT = """
import resource
import torch
from mobilevig_det.ops import keep_freed_memory

def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(cleared())
print(keep_freed_memory())
print(*(cleared() for _ in range(15)))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc', reason='only glibc has the switch'
)
def test_pages_are_cleared_once():
    before, done, after = subprocess.run(
        [sys.executable, '-c', SCRIPT], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert done == 'True'
    # At first the heap may grow: to align a block glibc looks for more than the
    # block takes, and so for more than was freed.
    assert statistics.median(map(int, after.split())) < int(before) / 20


def test_without_the_switch_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())  # no mallopt in it
    assert keep_freed_memory() is False


def test_old_places_of_functions_are_deprecated():
    from mobilevig_det import mmcv_ops, ops
    from mobilevig_det.ops import cpu_fast_paths, winograd

    with pytest.warns(DeprecationWarning, match='mobilevig_det.mmcv_ops.use_on_cpus'):
        assert ops.use_on_cpus is mmcv_ops.use_on_cpus
    with pytest.warns(DeprecationWarning, match='cpu_fast_paths.apply_cpu_fast_paths'):
        assert winograd.use_winograd is cpu_fast_paths.apply_cpu_fast_paths
    assert not hasattr(ops, 'no_such_name')
