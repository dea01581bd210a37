"""Full and failing disks while checkpoints and scalars are written."""

import errno
import json
import os
import resource

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.engine import FaultTolerantLocalVisBackend
from mobilevig_det.errors import UserError

import pytest
import tiny_training as tiny


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


class FullDisk:
    """Limit the size of files to a few kilobytes, with the system's own limit."""

    def __init__(self, iterations):
        self.iterations = iterations

    def __call__(self, runner):
        hook = tiny.checkpoint_hook(runner)
        write = hook._write

        def limited(runner, path, *args, **kwargs):
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            if runner.iter in self.iterations:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
            try:
                return write(runner, path, *args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        hook._write = limited


def test_full_disk_skips_one_checkpoint(tmp_path):
    cfg = tiny.config(tmp_path)
    result = tiny.train(cfg, dict(iter=13), minutes=2, prepare=FullDisk({12}))
    hook = tiny.checkpoint_hook(result.runner)
    assert names(tmp_path) == [
        'best_acc_epoch_1.pth',
        'epoch_1.pth',
        'epoch_1_iter_14.pth',
    ]
    assert not list(tmp_path.glob('.*.part'))
    assert hook.last_ckpt == str(tmp_path / 'epoch_1_iter_14.pth')


def test_disk_that_stays_full_ends_with_an_error(tmp_path):
    """The training is done, but must not seem to have succeeded."""
    with pytest.raises(UserError, match='last weights could not be saved'):
        tiny.train(tiny.config(tmp_path), prepare=FullDisk(set(range(11, 99))))
    assert names(tmp_path) == ['best_acc_epoch_1.pth', 'epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'epoch_1.pth'
    read_checkpoint(tmp_path / 'epoch_1.pth')


class Fault:
    """Let a system call fail, from an iteration on, for a number of times."""

    def __init__(self, monkeypatch, name, code, times, after=0):
        real, calls = getattr(os, name), []

        def failing(*args):
            if self.runner.iter >= after and len(calls) < times:
                calls.append(args)
                raise OSError(code, os.strerror(code))
            return real(*args)

        self._arm = lambda: monkeypatch.setattr(os, name, failing)

    def __call__(self, runner):
        self.runner = runner
        self._arm()


FAULTS = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO, errno.ESTALE]


@pytest.mark.parametrize('code', FAULTS, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize('name', ['open', 'fsync', 'replace'])
def test_any_disk_error_skips_one_checkpoint(tmp_path, monkeypatch, name, code):
    """In the second epoch; the next checkpoint is written a minute later."""
    cfg = tiny.config(tmp_path, val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg['default_hooks']['checkpoint']['save_best'] = None
    fault = Fault(monkeypatch, name, code, times=1, after=11)
    tiny.train(cfg, dict(iter=13), minutes=2, prepare=fault)
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_1_iter_14.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'epoch_1_iter_14.pth'
    assert not list(tmp_path.glob('.*.part'))
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert log.count('could not be written') == 1
    assert os.strerror(code) in log


def test_read_only_folder_ends_with_an_error(tmp_path, monkeypatch):
    """Nothing can be renamed or deleted from the second epoch on."""
    cfg = tiny.config(tmp_path)
    cfg['default_hooks']['checkpoint']['max_keep_ckpts'] = 2
    replace = Fault(monkeypatch, 'replace', errno.EACCES, times=99, after=11)
    remove = Fault(monkeypatch, 'remove', errno.EACCES, times=99, after=11)

    def prepare(runner):
        replace(runner)
        remove(runner)

    with pytest.raises(UserError, match='last weights could not be saved'):
        tiny.train(cfg, prepare=prepare)
    assert names(tmp_path) == ['best_acc_epoch_1.pth', 'epoch_1.pth']
    read_checkpoint(tmp_path / 'epoch_1.pth')


def test_checkpoints_that_cannot_be_deleted_are_deleted_later(tmp_path, monkeypatch):
    cfg = tiny.config(tmp_path, epochs=4)
    cfg['default_hooks']['checkpoint'].update(max_keep_ckpts=2, save_best=None)
    # Of the third epoch: its checkpoint is saved before and after its validation.
    fault = Fault(monkeypatch, 'remove', errno.EACCES, times=2, after=29)
    tiny.train(cfg, prepare=fault)
    assert names(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']


def test_training_continues_without_scalars(tmp_path):
    """MMEngine's own backend would end the training."""
    own = 'mobilevig_det.engine.FaultTolerantLocalVisBackend'
    cfg = tiny.config(tmp_path, epochs=2)
    cfg['default_hooks']['logger'] = dict(type='LoggerHook', interval=1)
    cfg['visualizer'] = dict(
        type='Visualizer', name=str(tmp_path), vis_backends=[dict(type=own)]
    )

    def prepare(runner):
        """Make the file of scalars a folder, so that it can't be written."""
        (tmp_path / runner.timestamp / 'vis_data' / 'scalars.json').mkdir(parents=True)

    result = tiny.train(cfg, prepare=prepare)
    assert len(result.losses) == 20
    log = (tmp_path / result.runner.timestamp).glob('*.log')
    assert next(log).read_text().count('Losses and metrics cannot be written') == 1


def test_no_incomplete_line_in_the_scalars_file(tmp_path):
    """The size of the file is limited for a while."""
    backend = FaultTolerantLocalVisBackend(str(tmp_path))
    backend.add_scalars(dict(loss=0.5), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    try:
        backend.add_scalars(dict(loss=0.25), 2)
        backend.add_scalar('loss', 0.125, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    backend.add_scalar('loss', 0.0625, 4)
    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        dict(loss=0.5, step=1),
        dict(loss=0.0625, step=4),
    ]
