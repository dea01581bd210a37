"""Commands in a process group of their own, to be signalled and killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mobilevig_det.checkpoints import read_checkpoint

TESTS = Path(__file__).parent


# What a training imports. The server of forks is one, also that of the benchmark.
PRELOAD = ['benchmarks', 'mmdet.models', 'torch._dynamo']


def begin(folder, settings, environ):
    """In a fork of a process that has imported all and done nothing."""
    os.setsid()
    os.environ.update(environ)
    with open(folder / 'output.txt', 'ab') as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    import tiny_process

    tiny_process.main(folder, settings)


class Fork(ForkServerProcess):
    """With what tests call of subprocess.Popen."""

    def poll(self):
        return self.exitcode

    def wait(self, timeout=None):
        self.join(timeout)
        assert self.exitcode is not None, f'runs after {timeout} seconds'
        return self.exitcode


class Job:
    """A training of tiny_process.py in a process group of its own, killed at the end
    of a test: a fork, or what a command starts."""

    def __init__(self, folder, settings, command=None, **environ):
        self.folder, self.output = folder, None
        environ['OMP_NUM_THREADS'] = '1'
        if command is None:
            multiprocessing.get_context('forkserver').set_forkserver_preload(PRELOAD)
            self.process = Fork(target=begin, args=(folder, settings, environ))
            self.process.start()
            return
        script = TESTS / 'tiny_process.py'
        paths = [str(TESTS.parents[1]), str(TESTS), os.environ.get('PYTHONPATH', '')]
        self.output = open(folder / 'output.txt', 'ab')
        self.process = subprocess.Popen(
            [*command, str(script), str(folder), json.dumps(settings)],
            start_new_session=True,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths), **environ},
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
            self.process.kill()  # has no group yet
        self.process.wait()
        if self.output:
            self.output.close()


def position(folder):
    """Epoch and iterations of the checkpoint that a resumed run would take."""
    run = folder / 'run'
    name = Path((run / 'last_checkpoint').read_text()).name
    meta = read_checkpoint(run / name)['meta']
    return meta['epoch'], meta['iter']
