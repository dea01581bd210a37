"""Timing in turns, so that a busy machine slows all rows of a table alike."""

import multiprocessing
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from mobilevig_det.ops import keep_freed_memory

import torch

from .measuring import peak_memory, quiet, release, seconds

# Seconds that a turn takes at least.
TURN = 0.05
# Forks of a process that has imported what is needed and computed nothing.
PROCESSES: Any = multiprocessing.get_context(
    'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
)
PROCESSES.set_forkserver_preload(['benchmarks', 'mmdet.models'])


def contestant(connection, make: Callable, args: Namespace) -> None:
    """A process for one row: ``make(args)`` gives what is known of it, and
    what to run at each turn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends it.
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.keep_memory:
        keep_freed_memory()
    try:
        facts, run = make(args)
        run()
        # What takes little time is run more often, and once before: others
        # had the caches in between.
        times = max(int(TURN / seconds(run, args.device)), 1)
        release(args.device)
        connection.send(facts)
        while connection.recv() == 'time':
            if times > 1 or args.device != 'cpu':
                run()
            took = seconds(lambda: [run() for _ in range(times)], args.device) / times
            release(args.device)
            connection.send(took)
        with quiet():
            connection.send(peak_memory(run, args.device))
    except (
        RuntimeError,
        AssertionError,
        ValueError,
        AttributeError,
        ImportError,
    ) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        connection.send(lines[-1][:120])


def ask(row: dict, connection, question: str | None = None) -> Any:
    """The process's answer, or None, and why in the row, if it failed."""
    if 'failed' in row:
        return None
    try:
        if question:
            connection.send(question)
        answer = connection.recv()
    except (EOFError, OSError):
        answer = 'its process ended: out of memory?'
    if isinstance(answer, str):
        row['failed'] = answer
        return None
    return answer


def in_turns(
    rows: list[dict], makes: Sequence[Callable], rounds: int, args: Namespace
) -> list[dict]:
    """Time all rows in turns, each in its own process: what one leaves in the
    allocator would make another faster or slower."""
    there = []
    for row, make in zip(rows, makes):
        where = f'{row["part"]} {row["size"]}: {row["name"]}'
        progress(f'{where}, warming up')
        connection, theirs = PROCESSES.Pipe()
        PROCESSES.Process(
            target=contestant, args=(theirs, make, args), daemon=True
        ).start()
        theirs.close()
        row.update(ask(row, connection) or {}, seconds=[])
        there.append((row, where, connection))
    for i in range(rounds):
        for row, where, connection in there:
            progress(f'{where}, {i + 1} of {rounds}')
            row['seconds'].append(ask(row, connection, 'time'))
    for row, where, connection in there:
        progress(f'{where}, memory')
        row['peak_bytes'] = ask(row, connection, 'memory')
    progress('')
    return rows


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)
    elif text.endswith('warming up'):
        print(text, file=sys.stderr, flush=True)
