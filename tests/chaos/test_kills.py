"""A training that is killed at every point ends as one that was not.

In a process of its own, which forks: what other tests started is not in it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name('kill_training.py')


@pytest.mark.skipif(sys.platform == 'win32', reason='kills a process group')
def test_thirty_kills_lose_nothing():
    done = subprocess.run(
        [sys.executable, str(HARNESS), '--kills', '30', '--seed', '1'],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith('| all'))
    assert row.split('|')[2].strip() == '30', done.stdout
