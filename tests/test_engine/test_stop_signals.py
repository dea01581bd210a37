"""SIGTERM and Ctrl-C to a whole process group, with loader workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.engine import ignore_signals_in_workers

import pytest
from mmengine.config import Config

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not hasattr(signal, 'sigtimedwait'), reason='signals as Linux has them'
)


class Job:
    """A command in a process group of its own, killed at the end of a test."""

    def __init__(self, folder, settings, command=(sys.executable,)):
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


@pytest.fixture
def start(tmp_path):
    jobs = []

    def start(settings, command=(sys.executable,)):
        jobs.append(Job(tmp_path, settings, command))
        return jobs[-1]

    yield start
    for job in jobs:
        try:
            job.group(signal.SIGKILL)
        except ProcessLookupError:
            pass
        job.process.wait()
        job.output.close()


def position(folder):
    """Epoch and iterations of the checkpoint that a resumed run would take."""
    run = folder / 'run'
    name = Path((run / 'last_checkpoint').read_text()).name
    meta = read_checkpoint(run / name)['meta']
    return meta['epoch'], meta['iter']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_in_the_middle_of_an_epoch(start, tmp_path, number):
    job = start(dict(workers=2, slow=0.2))
    job.wait_for('iter_3.0')
    assert len(job.members()) == 3
    job.group(number)
    assert job.wait() == 143, job.text()
    job.wait_for_no_member()
    epoch, done = position(tmp_path)
    assert epoch == 0 and 3 <= done <= 5
    assert '--resume' in job.text() and 'Traceback' not in job.text()
    if number == signal.SIGTERM:
        again = start(dict(workers=2, resume=True, epochs=1))
        assert again.wait() == 0, again.text()
        assert (tmp_path / 'iter_10.0').exists()
        losses = read_checkpoint(tmp_path / 'losses.pth')
        assert sorted(losses) == list(range(done, 10))


def test_in_validation(start, tmp_path):
    job = start(dict(slow=0.2))
    job.wait_for('val_10.0')
    job.group(signal.SIGTERM)
    assert job.wait() == 143, job.text()
    assert position(tmp_path) == (1, 10)
    assert not (tmp_path / 'iter_11.0').exists()
    assert 'epoch_1.pth' in job.text()


def test_with_the_checkpoint_hook_of_mmengine(start, tmp_path):
    job = start(dict(slow=0.2, mmengine=True))
    job.wait_for('iter_3.0')
    job.group(signal.SIGTERM)
    assert job.wait() == 143, job.text()
    epoch, done = position(tmp_path)
    assert epoch == 0 and 3 <= done <= 5


def test_a_second_signal_ends_at_once(start, tmp_path):
    job = start(dict(slow=60))
    job.wait_for('iter_1.0')
    job.group(signal.SIGTERM)
    time.sleep(2.5)
    assert job.process.poll() is None
    job.group(signal.SIGTERM)
    assert job.wait(10) == 143
    assert 'without a new checkpoint; there is none' in job.text()


def test_no_orphans_of_a_killed_process(start):
    job = start(dict(workers=2, slow=0.2))
    job.wait_for('iter_2.0')
    job.process.kill()
    job.wait()
    job.wait_for_no_member()


def test_loaders_of_a_config():
    own = dict(type='own')
    cfg = Config(
        dict(
            train_dataloader=dict(num_workers=2, disable_subprocess_warning=True),
            val_dataloader=dict(num_workers=0),
            test_dataloader=dict(num_workers=1, worker_init_fn=own),
        )
    )
    ignore_signals_in_workers(cfg)
    assert cfg.train_dataloader == dict(
        num_workers=2,
        worker_init_fn=dict(
            type='mobilevig_det.engine.ignore_signals', disable_subprocess_warning=True
        ),
    )
    assert cfg.val_dataloader == dict(num_workers=0)
    assert cfg.test_dataloader.worker_init_fn == own
