"""The time and the memory that a function takes."""

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def synchronize(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize()


def seconds(function: Callable, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def release(device: str) -> None:
    """Give back what PyTorch keeps of a GPU's memory, which rows share."""
    if device != 'cpu':
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the profiler's remarks, which C++ code writes."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def peak_memory(function: Callable, device: str) -> int:
    """Most bytes in tensors at once beyond those there before: on CPUs from
    every allocation that torch.profiler records."""
    gc.collect()
    if device != 'cpu':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'trace.json')
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)['traceEvents']
    held = peak = 0
    for event in sorted(
        (e for e in events if e.get('name') == '[memory]'), key=lambda e: e['ts']
    ):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak
