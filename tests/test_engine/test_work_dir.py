"""What may lie in a work dir next to the checkpoints of a training."""

import os

from mobilevig_det.engine.checkpoint_files import POINTER, find_newest_for_all

import pytest
import tiny_training as tiny

TEMPLATE = 'epoch_{}.pth'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    tiny.train(tiny.config(folder, epochs=2))
    return folder


@pytest.fixture
def work_dir(trained, tmp_path):
    for path in trained.glob('epoch_*.pth'):
        os.link(path, tmp_path / path.name)
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    return tmp_path


def newest(folder):
    found = find_newest_for_all(str(folder), str(folder), TEMPLATE)
    return os.path.basename(found)


ODD = {
    'dangling link': lambda path: path.symlink_to('/nowhere'),
    'link to itself': lambda path: path.symlink_to(path),
    'pipe': os.mkfifo,
    'device': lambda path: path.symlink_to('/dev/zero'),
    'folder': lambda path: path.mkdir(),
}


@pytest.mark.parametrize('kind', ODD)
@pytest.mark.parametrize(
    'name',
    ['epoch_11.pth', '.epoch_3.pth.part', 'last_checkpoint', 'current_run', '.a.part'],
)
def test_odd_entries_neither_stop_a_resume_nor_are_deleted(work_dir, name, kind):
    path = work_dir / name
    path.unlink(missing_ok=True)
    ODD[kind](path)
    assert newest(work_dir) == 'epoch_2.pth'
    assert os.path.lexists(path)


def test_only_files_of_a_training_are_cleaned_up(work_dir):
    ours = ['epoch_3.pth', 'epoch_3_iter_7.pth', 'best_acc_epoch_1.pth']
    ours = [f'.{name}.part' for name in [*ours, 'last_checkpoint', 'current_run']]
    others = ['.notes.part', '.epoch_x.pth.part', '.epoch_3.pth.old.part', '.part']
    others += ['notes.part', '.best.part', '.epoch_3.part']
    for name in [*ours, *others]:
        (work_dir / name).write_text('mine')
    assert newest(work_dir) == 'epoch_2.pth'
    left = {path.name for path in work_dir.iterdir()}
    assert left >= {*others} and not left & {*ours}


def test_training_keeps_folders_in_the_way_of_its_files(tmp_path):
    """Its temporary files get another name; a checkpoint is not written over one."""
    names = ['.epoch_1.pth.part', 'best_acc_epoch_1.pth', POINTER, 'current_run']
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / 'mine').write_text('mine')
    tiny.train(tiny.config(tmp_path, epochs=1))
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert all((tmp_path / name / 'mine').exists() for name in names)


def test_checkpoint_names_no_other_file_to_delete(tmp_path):
    """The list of checkpoints to delete, and the previous best, come from a file."""
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/notes.txt').write_text('mine')

    def plant(runner):
        runner.message_hub.update_info(
            'kept_checkpoints', [['notes.txt', True], ['epoch_0_iter_1.pth', True]]
        )
        runner.message_hub.update_info('best_ckpt', '/etc/notes.txt')
        runner.message_hub.update_info('best_score', -1.0)

    cfg = tiny.config(tmp_path / 'run', epochs=3)
    cfg['default_hooks']['checkpoint']['max_keep_ckpts'] = 2
    result = tiny.train(cfg, prepare=plant)
    assert (tmp_path / 'run/notes.txt').exists()
    kept = result.runner.message_hub.get_info('kept_checkpoints')
    assert [name for name, _ in kept] == ['epoch_2.pth', 'epoch_3.pth']
