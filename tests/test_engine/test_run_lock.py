"""Only one training at a time writes into a work dir."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

from mobilevig_det.engine import run_lock
from mobilevig_det.engine.run_lock import lock_folder, unlock_folder
from mobilevig_det.errors import UserError

import pytest
import tiny_training as tiny

HOLDER = """if True:
    import os, sys, time
    from mobilevig_det.engine.run_lock import lock_folder
    lock_folder(sys.argv[1])
    if os.fork() == 0:  # a process that lives longer
        sys.stdin.read()
        os._exit(0)
    print('locked', flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked the folder, and forked a third one."""
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()
    process.communicate()  # ends the third one


def test_second_training_is_refused_until_the_first_dies(holder, tmp_path):
    cfg = tiny.config(tmp_path)
    place = f'process {holder.pid} on {socket.gethostname()}'
    with pytest.raises(UserError, match=f'A training is running in .*{place}'):
        tiny.train(cfg)
    assert not list(tmp_path.glob('*.pth'))
    link = tmp_path.with_name('link')
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match=place):
        lock_folder(str(link))
    lock_folder(str(tmp_path / 'another'))
    unlock_folder(str(tmp_path / 'another'))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock_folder(str(tmp_path))
    unlock_folder(str(tmp_path))


def test_resume_of_a_running_training_deletes_nothing(holder, tmp_path):
    part = tmp_path / '.epoch_1.pth.part'
    part.write_bytes(b'half')
    with pytest.raises(UserError, match='A training is running'):
        tiny.train(tiny.config(tmp_path, resume=True))
    assert part.exists()


def is_free(folder):
    with open(folder / run_lock.NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_training_holds_the_lock_until_its_end(tmp_path):
    """An error keeps it, and the next training of the process takes it over."""
    assert tiny.train(tiny.config(tmp_path), dict(iter=2)).killed
    assert not is_free(tmp_path)
    tiny.train(tiny.config(tmp_path, epochs=1))
    assert is_free(tmp_path)


def test_file_systems_without_locks_get_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(run_lock, 'print_log', lambda text, *args: said.append(text))

    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, 'flock', no_locks)
        lock_folder(str(tmp_path))
    os.remove(tmp_path / run_lock.NAME)
    os.mkfifo(tmp_path / run_lock.NAME)
    lock_folder(str(tmp_path))
    monkeypatch.setattr(run_lock, 'fcntl', None)
    lock_folder(str(tmp_path))
    assert str(tmp_path) not in run_lock._held
    assert len(said) == 3 and all('cannot be locked' in text for text in said)
