"""SIGTERM and Ctrl-C to a process group with loader workers."""

import signal
import time

from mobilevig_det.engine import ignore_signals_in_workers

import pytest
import torch
from mmengine.config import Config
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
