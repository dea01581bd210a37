"""Checkpoints after kills, and with truncated files and moved folders."""

import os
import shutil
import struct
import zipfile

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.engine.checkpoint_files import outdated_checkpoints
from mobilevig_det.engine.hooks import DurableCheckpointHook
from mobilevig_det.errors import UserError

import pytest
import tiny_training as tiny
import torch
from mmengine.hooks import Hook


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    """Killed in the second epoch; saved by time, every second iteration."""
    folder = tmp_path_factory.mktemp('interrupted') / 'run'
    assert tiny.train(tiny.config(folder), dict(iter=15), minutes=2).killed
    return folder


@pytest.fixture
def work_dir(interrupted, tmp_path):
    """A copy in another place."""
    return shutil.copytree(interrupted, tmp_path / 'moved')


def resumed_from(work_dir, **changes):
    """Return the name of the file that a resumed run takes."""
    result = tiny.train(
        {**tiny.config(work_dir), 'resume': True, **changes}, dict(iter=16)
    )
    path = result.runner._load_from
    assert os.path.dirname(path) == str(work_dir)
    return os.path.basename(path)


def test_files_of_an_interrupted_run(interrupted):
    assert names(interrupted) == [
        'best_acc_epoch_1.pth',
        'epoch_1.pth',
        'epoch_1_iter_13.pth',
        'epoch_1_iter_15.pth',
    ]
    assert (interrupted / 'last_checkpoint').read_text() == 'epoch_1_iter_15.pth'
    assert not list(interrupted.glob('.*.part'))


@pytest.mark.parametrize(
    'max_keep, expected',
    [
        (1, ['epoch_3.pth', 'epoch_4.pth']),
        (3, ['epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']),
    ],
)
def test_max_keep_ckpts(tmp_path, max_keep, expected):
    cfg = tiny.config(tmp_path, epochs=4)
    cfg['default_hooks']['checkpoint'].update(max_keep_ckpts=max_keep, save_best=None)
    tiny.train(cfg, minutes=4)
    assert names(tmp_path) == expected


def test_retention_policy():
    def gone(text, max_keep):
        """Capitals are scheduled."""
        kept = [[name, name.isupper()] for name in text]
        return ''.join(name for name, _ in outdated_checkpoints(kept, max_keep))

    assert gone('A', 2) == gone('ab', 2) == gone('', 2) == ''
    assert gone('Abcd', 2) == 'b'
    assert gone('AbCdE', 2) == 'Abd'
    assert gone('abC', 2) == 'a'
    assert gone('ABCD', -1) == ''
    assert gone('abCde', -1) == 'ab'


@pytest.mark.parametrize('left', [0, 100, 0.5, -1])
def test_resume_skips_truncated_checkpoint(work_dir, left, capsys):
    newest = work_dir / 'epoch_1_iter_15.pth'
    data = newest.read_bytes()
    newest.write_bytes(
        data[: int(left * len(data)) if isinstance(left, float) else left]
    )
    assert resumed_from(work_dir, log_level='INFO') == 'epoch_1_iter_13.pth'
    assert 'Skipped: ' in (
        said := capsys.readouterr().out
        + ''.join(log.read_text() for log in work_dir.glob('*/*.log'))
    )
    assert 'epoch_1_iter_15.pth' in said


def test_resume_skips_checkpoint_of_zeros(work_dir):
    newest = work_dir / 'epoch_1_iter_15.pth'
    newest.write_bytes(bytes(newest.stat().st_size))
    assert resumed_from(work_dir) == 'epoch_1_iter_13.pth'


def test_resume_skips_checkpoint_with_a_flipped_bit(work_dir):
    """torch would load it, with a wrong weight."""
    newest = work_dir / 'epoch_1_iter_15.pth'
    with zipfile.ZipFile(newest) as archive:
        weights = [info for info in archive.infolist() if '/data/' in info.filename]
    weight = max(weights, key=lambda info: info.file_size)
    data = bytearray(newest.read_bytes())
    lengths = data[weight.header_offset + 26 :][:4]  # of the name, and what follows
    begin = weight.header_offset + 30 + sum(struct.unpack('<HH', lengths))
    data[begin + weight.file_size // 2] ^= 1
    newest.write_bytes(data)
    read_checkpoint(newest)
    assert resumed_from(work_dir) == 'epoch_1_iter_13.pth'


@pytest.mark.parametrize(
    'pointer',
    ['', None, '/elsewhere/run/epoch_1_iter_15.pth', 'no such file', '\0\xff'],
)
def test_resume_survives_a_wrong_pointer(work_dir, pointer):
    (work_dir / 'last_checkpoint').unlink()
    if pointer is not None:
        (work_dir / 'last_checkpoint').write_text(pointer)
    assert resumed_from(work_dir) == 'epoch_1_iter_15.pth'


def test_resume_takes_a_file_newer_than_the_pointer(work_dir):
    (work_dir / 'last_checkpoint').write_text('epoch_1_iter_13.pth')
    assert resumed_from(work_dir) == 'epoch_1_iter_15.pth'


def test_resume_deletes_incomplete_files(work_dir):
    part = work_dir / '.epoch_1_iter_17.pth.part'
    part.write_bytes(b'half')
    resumed_from(work_dir)
    assert not part.exists()


def test_resume_fails_if_no_checkpoint_can_be_read(work_dir):
    for path in work_dir.glob('*.pth'):
        path.write_bytes(b'PK')
    with pytest.raises(UserError, match='nothing to resume from'):
        tiny.train(tiny.config(work_dir, resume=True))


def test_resume_without_checkpoints_starts_a_new_run(tmp_path):
    result = tiny.train(tiny.config(tmp_path, resume=True), dict(iter=1))
    assert min(result.losses) == 0


def test_resume_prefers_checkpoints_to_load_from(work_dir, interrupted, tmp_path):
    """load_from in a config holds initial weights; a resumed run has newer ones."""
    weights = dict(
        state_dict=read_checkpoint(interrupted / 'epoch_1.pth')['state_dict']
    )
    torch.save(weights, tmp_path / 'weights.pth')
    assert (
        resumed_from(work_dir, load_from=str(tmp_path / 'weights.pth'))
        == 'epoch_1_iter_15.pth'
    )
    cfg = tiny.config(
        tmp_path / 'empty', resume=True, load_from=str(tmp_path / 'weights.pth')
    )
    result = tiny.train(cfg, dict(iter=0))
    assert min(result.losses) == 0


def test_resume_takes_a_named_file(work_dir):
    cfg = tiny.config(work_dir, resume=True, load_from=str(work_dir / 'epoch_1.pth'))
    cfg['default_hooks']['checkpoint']['resume_newest'] = False
    result = tiny.train(cfg, dict(iter=11))
    assert min(result.losses) == 10


def test_resume_ignores_checkpoints_of_an_earlier_run(work_dir):
    """A new run in a folder where an earlier one got further."""
    tiny.train(tiny.config(work_dir), dict(iter=5), minutes=2)
    assert resumed_from(work_dir) == 'epoch_0_iter_5.pth'


def test_run_killed_before_its_first_checkpoint_starts_again(work_dir):
    """The folder's earlier run is not resumed instead."""
    tiny.train(tiny.config(work_dir), dict(iter=5))
    cfg = tiny.config(work_dir, resume=True, log_level='WARNING')
    result = tiny.train(cfg, dict(iter=3))
    assert min(result.losses) == 0
    (log,) = (work_dir / result.runner.timestamp).glob('*.log')
    assert 'starts again' in (said := log.read_text())
    assert f'{work_dir}/epoch_1_iter_15.pth belongs to another run' in said
    # If its own first checkpoint is truncated, the earlier run's aren't used instead.
    tiny.train(tiny.config(work_dir), dict(iter=5), minutes=4)
    assert names(work_dir)[1] == 'epoch_0_iter_5.pth'
    (work_dir / 'epoch_0_iter_5.pth').write_bytes(b'torn')
    with pytest.raises(UserError, match='nothing to resume from'):
        tiny.train(tiny.config(work_dir, resume=True))


def test_earlier_run_resumes_if_its_file_is_named(work_dir):
    tiny.train(tiny.config(work_dir), dict(iter=5))
    cfg = tiny.config(
        work_dir, resume=True, load_from=str(work_dir / 'epoch_1_iter_13.pth')
    )
    cfg['default_hooks']['checkpoint']['resume_newest'] = False
    tiny.train(cfg, dict(iter=14))
    assert resumed_from(work_dir) == 'epoch_1_iter_15.pth'


def test_named_file_without_a_run_name_takes_the_folder_over(work_dir):
    """Such as files of MMEngine's own hook."""
    tiny.train(tiny.config(work_dir), dict(iter=5))
    assert (work_dir / 'current_run').exists()
    for path in work_dir.glob('epoch*.pth'):
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint['message_hub']['runtime_info']['run']
        torch.save(checkpoint, path)
    cfg = tiny.config(work_dir, resume=True, load_from=str(work_dir / 'epoch_1.pth'))
    cfg['default_hooks']['checkpoint']['resume_newest'] = False
    tiny.train(cfg, dict(iter=11))
    assert not (work_dir / 'current_run').exists()
    os.utime(work_dir / 'epoch_1_iter_15.pth')
    assert resumed_from(work_dir) == 'epoch_1_iter_15.pth'


def test_single_run_writes_no_run_name(interrupted):
    assert not (interrupted / 'current_run').exists()


def test_checkpoint_of_mmengines_hook_resumes(tmp_path):
    cfg = tiny.config(
        tmp_path, epochs=2, val_cfg=None, val_dataloader=None, val_evaluator=None
    )
    stock = tiny.config(
        tmp_path, epochs=1, val_cfg=None, val_dataloader=None, val_evaluator=None
    )
    stock['default_hooks']['checkpoint'] = dict(type='CheckpointHook', interval=1)
    stock['train_cfg']['type'] = 'EpochBasedTrainLoop'
    tiny.train(stock)
    result = tiny.train({**cfg, 'resume': True})
    assert sorted(result.losses) == list(range(10, 20))


class Spoil(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            next(runner.model.parameters()).data[0] = float('nan')


def test_nan_weights_are_not_saved(tmp_path):
    def spoil(runner):
        runner.register_hook(Spoil(14))

    cfg = tiny.config(tmp_path, custom_hooks=[])
    tiny.train(cfg, dict(iter=18), minutes=2, prepare=spoil)
    assert names(tmp_path)[-1] == 'epoch_1_iter_13.pth'
    for path in tmp_path.glob('*.pth'):
        weights = read_checkpoint(path)['state_dict']
        assert all(torch.isfinite(w).all() for w in weights.values())


def test_buffer_of_infinity_is_saved(tmp_path):
    def mask(runner):
        runner.model.register_buffer('mask', torch.tensor([0.0, -float('inf')]))

    tiny.train(tiny.config(tmp_path), dict(iter=15), minutes=2, prepare=mask)
    assert 'epoch_1_iter_15.pth' in names(tmp_path)


def test_old_checkpoint_is_deleted_after_the_new_one_is_synced(tmp_path, monkeypatch):
    """Compare the order of the system calls for a checkpoint."""
    calls = []

    def log(name):
        real = getattr(os, name)

        def logged(target, *args):
            path = (
                os.readlink(f'/proc/self/fd/{target}')
                if isinstance(target, int)
                else target
            )
            if str(path).startswith(str(tmp_path)):
                calls.append(
                    (name, os.path.relpath(args[0] if args else path, tmp_path))
                )
            return real(target, *args)

        monkeypatch.setattr(os, name, logged)

    def prepare(runner):
        for name in ('fsync', 'replace', 'remove'):
            log(name)

    cfg = tiny.config(tmp_path, epochs=3)
    cfg['default_hooks']['checkpoint'].update(max_keep_ckpts=2, save_best=None)
    tiny.train(cfg, prepare=prepare)
    monkeypatch.undo()

    def written(name):
        return [('fsync', f'.{name}.part'), ('replace', name), ('fsync', '.')]

    last = [
        *written('epoch_3.pth'),
        *written('last_checkpoint'),
        ('remove', 'epoch_1.pth'),
        # After its validation.
        *written('epoch_3.pth'),
        *written('last_checkpoint'),
    ]
    assert calls[-len(last) :] == last


def test_previous_best_is_deleted_after_the_new_one_is_there(tmp_path, monkeypatch):
    scores = iter([0.5, 0.25, 0.75])
    monkeypatch.setattr(
        tiny.DrawingMetric, 'compute_metrics', lambda *_: dict(acc=next(scores))
    )
    real = os.replace
    seen = []

    def replace(part, path):
        if 'best' in os.path.basename(path):
            seen.append([name for name in names(tmp_path) if 'best' in name])
        real(part, path)

    tiny.train(
        tiny.config(tmp_path),
        prepare=lambda runner: monkeypatch.setattr(os, 'replace', replace),
    )
    assert seen == [[], ['best_acc_epoch_1.pth']]
    assert 'best_acc_epoch_3.pth' in names(tmp_path)
    assert 'best_acc_epoch_1.pth' not in names(tmp_path)
    best = read_checkpoint(tmp_path / 'best_acc_epoch_3.pth')
    assert 'optimizer' not in best
    last = read_checkpoint(tmp_path / 'epoch_3.pth')
    for name, value in last['state_dict'].items():
        assert torch.equal(value, best['state_dict'][name])


def test_best_checkpoint_is_replaced_in_a_moved_folder(work_dir):
    """The old best checkpoint is deleted where it is now, not where it was."""
    cfg = tiny.config(work_dir, resume=True)
    cfg['default_hooks']['checkpoint'].update(save_best='acc', rule='less')
    result = tiny.train(cfg)
    hook = tiny.checkpoint_hook(result.runner)
    assert os.path.dirname(hook.best_ckpt_path) == str(work_dir)
    assert len([name for name in names(work_dir) if 'best' in name]) == 1


def test_save_now_in_a_validation_keeps_the_checkpoint_before_it(tmp_path):
    class Ask(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            hook = tiny.checkpoint_hook(runner)
            assert hook.already_saved(runner)
            before = os.stat(tmp_path / 'epoch_1.pth').st_mtime_ns
            assert hook.save_now(runner) == str(tmp_path / 'epoch_1.pth')
            assert os.stat(tmp_path / 'epoch_1.pth').st_mtime_ns == before

    tiny.train(
        tiny.config(tmp_path, epochs=1), prepare=lambda r: r.register_hook(Ask())
    )


def test_wrong_arguments():
    with pytest.raises(UserError, match='minutes=-1'):
        DurableCheckpointHook(minutes=-1)
    assert DurableCheckpointHook(max_keep_ckpts=1).max_keep_ckpts == 2
