"""Freed memory is reused: counted in pages that the system had to clear."""

import platform
import statistics
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from mobilevig_det.ops.allocator import keep_freed_memory

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
    # At first the heap may grow: for the sake of alignment glibc looks for
    # more than it then takes, and so for more than was freed.
    assert statistics.median(map(int, after.split())) < int(before) / 20


def test_without_the_switch_nothing_happens(monkeypatch):
    from mobilevig_det.ops import allocator

    monkeypatch.setattr(allocator, '_c_library', lambda: None)
    assert allocator.keep_freed_memory() is False
