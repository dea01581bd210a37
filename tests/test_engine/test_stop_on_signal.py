"""SIGTERM and Ctrl-C to a process group with loader workers."""

import multiprocessing
import os
import signal
import threading
import time

from mobilevig_det.engine import StopOnSignalHook, ignore_signals_in_workers

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from training_jobs import position

pytestmark = pytest.mark.skipif(
    not hasattr(signal, 'sigtimedwait'), reason='needs the signals of Linux'
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_in_the_middle_of_an_epoch_saves_and_exits(start, tmp_path, number):
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
        losses = torch.load(tmp_path / 'losses.pth', weights_only=True)
        assert sorted(losses) == list(range(done, 10))


def test_signal_in_validation_exits_without_saving_again(start, tmp_path):
    job = start(dict(slow=0.2))
    job.wait_for('val_10.0')
    job.group(signal.SIGTERM)
    assert job.wait() == 143, job.text()
    assert position(tmp_path) == (1, 10)
    assert not (tmp_path / 'iter_11.0').exists()
    assert 'epoch_1.pth' in job.text()


def test_signal_with_mmengines_checkpoint_hook_saves(start, tmp_path):
    job = start(dict(slow=0.2, mmengine=True))
    job.wait_for('iter_3.0')
    job.group(signal.SIGTERM)
    assert job.wait() == 143, job.text()
    epoch, done = position(tmp_path)
    assert epoch == 0 and 3 <= done <= 5


@pytest.fixture
def stop_hook():
    """Installed as in a training of this process."""
    before = signal_handling()
    hook = StopOnSignalHook()
    runner = object.__new__(Runner)
    hook.before_train(runner)
    hook.handling_before = before
    yield hook
    hook.after_train(runner)
    assert signal_handling() == before


def signal_handling():
    """Return the handlers, the wakeup file descriptor and the blocked signals.

    They differ between shells and job runners: some start processes that ignore SIGINT.
    """
    wakeup_fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup_fd)
    return (
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        wakeup_fd,
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    )


def in_fork(function):
    """Return the exit status of a forked process that calls a function."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(function()))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_forked_processes_handle_signals_as_before_the_training(stop_hook):
    def handles_signals_as_before():
        return signal_handling() == stop_hook.handling_before

    own = signal.getsignal(signal.SIGTERM)
    assert own != stop_hook.handling_before[0]
    assert in_fork(handles_signals_as_before) == 1
    assert in_fork(lambda: in_fork(handles_signals_as_before)) == 1
    assert in_fork(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM
    found = []
    thread = threading.Thread(
        target=lambda: found.append(in_fork(handles_signals_as_before))
    )
    thread.start()
    thread.join()
    assert found == [1]
    # This process has its own handler, and has received nothing.
    assert signal.getsignal(signal.SIGTERM) == own == stop_hook._on_signal
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not stop_hook._stop_requested
    with pytest.raises(BlockingIOError):
        stop_hook._sockets[0].recv(1)


def test_signal_just_after_the_fork_ends_the_process(stop_hook):
    """Neither lost, nor taken for a signal to the training."""
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == -signal.SIGTERM
    with pytest.raises(BlockingIOError):
        stop_hook._sockets[0].recv(1)


def test_pools_end_in_a_training(stop_hook):
    context = multiprocessing.get_context('fork')
    for _ in range(10):
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, 2]) == [1, 2]
    assert not stop_hook._stop_requested


@pytest.mark.slow
def test_second_signal_exits_at_once(start, tmp_path):
    job = start(dict(slow=60))
    job.wait_for('iter_1.0')
    job.group(signal.SIGTERM)
    time.sleep(2.5)
    assert job.process.poll() is None
    job.group(signal.SIGTERM)
    assert job.wait(10) == 143
    assert 'without a new checkpoint; there is none' in job.text()


def test_workers_of_a_killed_process_end(start):
    job = start(dict(workers=2, slow=0.2))
    job.wait_for('iter_2.0')
    job.process.kill()
    job.wait()
    job.wait_for_no_member()


def test_worker_init_fn_is_added_to_loaders_with_workers():
    own = dict(type='own')
    cfg = Config(
        dict(
            train_dataloader=dict(num_workers=2, disable_subprocess_warning=True),
            val_dataloader=dict(
                batch_size=2,
                num_workers=0,
                persistent_workers=True,
                prefetch_factor=2,
                timeout=9,
                multiprocessing_context='fork',
            ),
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
    # torch refuses settings of workers without workers.
    assert cfg.val_dataloader == dict(batch_size=2, num_workers=0)
    assert cfg.test_dataloader.worker_init_fn == own
