"""The ways to detect in many images, as commands, and the rows that they leave."""

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

TOOLS = Path(__file__).parents[2] / 'tools'


class Way(NamedTuple):
    """``victims`` begins the command line of the processes that hold a model."""

    name: str
    command: list[str]
    files: str
    victims: str


def ways(python: str = sys.executable) -> dict[str, Way]:
    infer = [str(TOOLS / 'infer.py'), '--no-save-vis']
    torchrun = [python, '-m', 'torch.distributed.run', '--nproc_per_node', '2']
    torchrun += ['--rdzv_backend', 'c10d', '--rdzv_endpoint', 'localhost:0']
    ray = [python, str(TOOLS / 'infer_ray.py')]
    return {
        'one process': Way('one process', [python, *infer], '*.jsonl', python),
        'torchrun, two': Way(
            'torchrun, two',
            [*torchrun, *infer, '--launcher', 'pytorch'],
            '*.jsonl',
            f'{python} -u {infer[0]}',
        ),
        'Ray, two': Way(
            'Ray, two', [*ray, '--actors', '2'], '*.parquet', 'ray::MapWorker'
        ),
        'Ray, one': Way(
            'Ray, one', [*ray, '--actors', '1'], '*.parquet', 'ray::MapWorker'
        ),
    }


def rows(way: Way, out: Path) -> Iterator[dict]:
    """All rows in a folder, in any order."""
    for path in sorted(glob.glob(str(out / 'rows' / way.files))):
        if path.endswith('.parquet'):
            yield from pq.read_table(path).to_pylist()
        else:
            with open(path, 'rb') as file:
                yield from map(json.loads, file)


def bytes_of_rows(way: Way, out: Path) -> int:
    total = 0
    for path in glob.glob(str(out / 'rows' / way.files)):
        try:
            total += os.path.getsize(path)
        except OSError:
            pass  # renamed meanwhile
    return total


def descendants(root: int) -> dict[int, str]:
    """Pid and command line of a process and all that come from it."""
    parents, lines = {}, {}
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                stat = Path('/proc', entry, 'stat').read_text()
                line = Path('/proc', entry, 'cmdline').read_bytes()
            except OSError:
                continue  # it has ended
            parents[int(entry)] = int(stat.rpartition(')')[2].split()[1])
            lines[int(entry)] = line.replace(b'\0', b' ').decode(errors='replace')
    found, new = {root}, {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return {pid: lines[pid] for pid in found if pid in lines}


def anonymous_kib(pid: int) -> int:
    """Resident memory that is neither a file's nor, as Ray's object store, shared."""
    try:
        lines = Path('/proc', str(pid), 'status').read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith('RssAnon:'))
