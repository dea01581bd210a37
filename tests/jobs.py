"""Commands in a process group of their own, to be signalled and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mobilevig_det.checkpoints import read_checkpoint

TESTS = Path(__file__).parent


class Job:
    """A command in a process group of its own, killed at the end of a test."""

    def __init__(self, folder, settings, command=(sys.executable,), **environ):
        self.folder = folder
        script = TESTS / 'tiny_process.py'
        paths = [str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')]
        self.output = open(folder / 'output.txt', 'ab')
        self.process = subprocess.Popen(
            [*command, str(script), str(folder), json.dumps(settings)],
            start_new_session=True,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(paths),
                'OMP_NUM_THREADS': '1',
                **environ,
            },
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, name):
        """Until the file is there; the process id in it."""
        path = self.folder / name
        end = time.monotonic() + 90
        while not (path.is_file() and path.read_text()):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)
        return int(path.read_text())

    def group(self, number):
        os.killpg(self.process.pid, number)

    def wait(self, seconds=30):
        return self.process.wait(seconds)

    def text(self):
        return (self.folder / 'output.txt').read_text()

    def members(self):
        """Process ids of the group that are alive."""
        found = []
        for stat in Path('/proc').glob('[0-9]*/stat'):
            try:
                state, _, group = stat.read_text().rpartition(')')[2].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state not in 'ZX':
                found.append(int(stat.parent.name))
        return found

    def wait_for_no_member(self):
        end = time.monotonic() + 10
        while self.members():
            assert time.monotonic() < end, self.members()
            time.sleep(0.05)

    def end(self):
        try:
            self.group(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.output.close()


def position(folder):
    """Epoch and iterations of the checkpoint that a resumed run would take."""
    run = folder / 'run'
    name = Path((run / 'last_checkpoint').read_text()).name
    meta = read_checkpoint(run / name)['meta']
    return meta['epoch'], meta['iter']
