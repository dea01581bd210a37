"""Time several implementations in turns, each in a process of its own.

A busy machine then slows all rows of a table alike, and the allocator's state after one
implementation does not affect the next one.
"""

import gc
import itertools
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mobilevig_det.ops import keep_freed_memory

import torch

MIN_TURN_SECONDS = 0.05
# Processes are forked from a server that has only imported the modules.
PROCESSES: Any = multiprocessing.get_context(
    'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
)
PROCESSES.set_forkserver_preload(['benchmarks', 'mmdet.models'])


def interleaved(
    args: Namespace,
    part: str,
    size: str,
    makes: Mapping[str, Callable],
    base: str | Callable[[str], str | None],
    rounds: int | None = None,
    **facts,
) -> list[dict]:
    """Time implementations in turns and measure their peak memory.

    Args:
        args (Namespace): Arguments of the command.
        part (str): What is measured, for the first column of the table.
        size (str): The input size, for the second column.
        makes (Mapping[str, Callable]): Names of rows, and functions that are called
            with ``args`` in the row's process. Each returns a dict of facts about the
            row and a function to time.
        base (str | Callable): Name of the row that the others are compared with, or a
            function from a row's name to that name.
        rounds (int, optional): Number of turns. Defaults to ``args.rounds``.
        **facts: Further entries of every row.

    Returns:
        list[dict]: A row for each name with ``seconds`` (one number per turn) and
        ``peak_bytes``, or with ``failed``, the reason.
    """
    rows, connections = [], []
    for name, make in makes.items():
        base_name = base if isinstance(base, str) else base(name)
        row = dict(part=part, size=size, name=name, base=base_name, **facts)
        show_progress(f'{_label(row)}, warming up')
        connection, child_connection = PROCESSES.Pipe()
        PROCESSES.Process(
            target=_serve, args=(child_connection, make, args), daemon=True
        ).start()
        child_connection.close()
        row.update(_receive(row, connection) or {}, seconds=[])
        rows.append(row)
        connections.append(connection)
    rounds = rounds or args.rounds
    for i in range(rounds):
        for row, connection in zip(rows, connections):
            show_progress(f'{_label(row)}, {i + 1} of {rounds}')
            row['seconds'].append(_receive(row, connection, 'time'))
    for row, connection in zip(rows, connections):
        show_progress(f'{_label(row)}, memory')
        row['peak_bytes'] = _receive(row, connection, 'memory')
    show_progress('')
    return rows


def _label(row: dict) -> str:
    return f'{row["part"]} {row["size"]}: {row["name"]}'


def _serve(connection, make: Callable, args: Namespace) -> None:
    """Measure a row in its own process whenever the parent process asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.keep_memory:
        keep_freed_memory()
    try:
        facts, run = make(args)
        run()
        # Short runs are repeated within a turn. One run before them warms the caches,
        # which other rows have used in the meantime.
        repeats = max(int(MIN_TURN_SECONDS / _seconds(run, args.device)), 1)
        _release_memory(args.device)
        connection.send(facts)
        while connection.recv() == 'time':
            if repeats > 1 or args.device != 'cpu':
                run()
            took = _seconds(lambda: [run() for _ in range(repeats)], args.device)
            _release_memory(args.device)
            connection.send(took / repeats)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the profiler's C++ code prints
        connection.send(peak_memory(run, args.device))
    except Exception as error:  # reported in the table, without stopping other rows
        lines = str(error).strip().splitlines() or [repr(error)]
        connection.send(lines[-1][:120])


def _receive(row: dict, connection, request: str | None = None) -> Any:
    """Send a request to the row's process and return its answer.

    If the process has failed, store the reason in the row and return None.
    """
    if 'failed' in row:
        return None
    try:
        if request:
            connection.send(request)
        answer = connection.recv()
    except (EOFError, OSError):
        answer = 'its process ended: out of memory?'
    if isinstance(answer, str):
        row['failed'] = answer
        return None
    return answer


def show_progress(text: str) -> None:
    """Update the progress line; without a terminal, print one line for each row."""
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)
    elif text.endswith('warming up'):
        print(text, file=sys.stderr, flush=True)


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device != 'cpu':
        torch.cuda.synchronize()


def _seconds(function: Callable, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def _release_memory(device: str) -> None:
    """Return PyTorch's cached memory to the GPU, which the rows share."""
    if device != 'cpu':
        gc.collect()
        torch.cuda.empty_cache()


def peak_memory(function: Callable, device: str) -> int:
    """Measure the peak memory of tensors while a function runs.

    Args:
        function (Callable): Called once, without arguments.
        device (str): 'cpu' or 'cuda'. On CPUs the allocations that torch.profiler
            records are added up.

    Returns:
        int: Bytes in addition to those that were allocated before.
    """
    gc.collect()
    if device != 'cpu':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'trace.json')
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    changes = [event for event in events if event.get('name') == '[memory]']
    changes.sort(key=lambda event: event['ts'])
    held = itertools.accumulate(event['args']['Bytes'] for event in changes)
    return max(held, default=0)
