"""What a GPU does in a step: launches, what the processor waits for, and idle time."""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from .measuring import quiet, synchronize

STEP = 'mobilevig_det step'
ON_DEVICE = 'kernel', 'gpu_memcpy', 'gpu_memset'
CALLS = 'cuda_runtime', 'cuda_driver'
LAUNCH = re.compile('cu(da)?(Launch\\w*Kernel|GraphLaunch)')
# cudaMemcpyAsync doesn't wait: where the processor needs the result, a call that
# synchronises follows.
WAIT = re.compile('cu\\w*Synchronize|cudaMemcpy$')


def activity(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what happened in a step.

    Args:
        events (Iterable[Mapping]): Of torch.profiler's Chrome trace: ``name``, and of
            what took a time ``cat``, ``ts`` and ``dur`` in microseconds. One of them
            is called :data:`STEP`. What the processor did counts if it began within
            that, what the device did if it began afterwards, too.

    Returns:
        dict: ``launches`` of kernels and captured graphs; ``waits``, calls in which
        the processor waits for the device; ``to_host``, copies from the device;
        ``items`` and ``nonzeros``, PyTorch's operators that wait for it, also on CPUs;
        ``busy``, seconds in which anything ran on the device; ``idle``, the others up
        to the end of the step or of the last thing that ran.
    """
    events = [event for event in events if 'dur' in event]
    begin, end = next(
        (e['ts'], e['ts'] + e['dur'])
        for e in events
        if e['name'] == STEP and e['cat'] == 'user_annotation'
    )
    calls = [e['name'] for e in events if e['cat'] in CALLS and begin <= e['ts'] < end]
    ops = [e['name'] for e in events if e['cat'] == 'cpu_op' and begin <= e['ts'] < end]
    there = sorted(
        (e['ts'], e['ts'] + e['dur'], e['name'])
        for e in events
        if e['cat'] in ON_DEVICE and e['ts'] >= begin
    )
    busy, until = 0.0, begin
    for start, stop, _ in there:  # streams overlap
        busy += max(stop - max(start, until), 0)
        until = max(until, stop)
    return dict(
        launches=sum(bool(LAUNCH.match(name)) for name in calls),
        waits=sum(bool(WAIT.match(name)) for name in calls),
        to_host=sum('DtoH' in name for _, _, name in there),
        items=ops.count('aten::_local_scalar_dense'),
        nonzeros=ops.count('aten::nonzero'),
        busy=busy / 1e6,
        idle=(max(end, until) - begin - busy) / 1e6,
    )


def trace(run: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """The events of ``run()``, for :func:`activity`."""
    activities = [ProfilerActivity.CPU]
    if device != 'cpu':
        activities.append(ProfilerActivity.CUDA)
    synchronize(device)
    with quiet(), profile(activities=activities) as profiler:
        with record_function(STEP):
            run()
        synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())['traceEvents']


def measure_activity(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """:func:`activity` of ``run()``; nothing where the profiler sees no device, for
    there is none or it may not be looked at (CUPTI's permission)."""
    found = activity(trace(run, device)) if torch.device(device).type != 'cpu' else {}
    return found if found.get('launches') else {}
