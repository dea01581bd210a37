"""Atomic writes: interrupted, failing, and concurrent ones."""

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys

from mobilevig_det import io
from mobilevig_det.io import (
    atomic_write,
    atomic_write_group,
    atomic_write_text,
    leftovers,
    remove,
    temporary_path,
)

import pytest

needs_signals = pytest.mark.skipif(os.name == 'nt', reason='no SIGKILL on Windows')


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_folder(path, **files):
    with atomic_write(path) as part:
        part.mkdir()
        for name, text in files.items():
            (part / name).write_text(text)


def fail(*args, **kwargs):
    raise OSError(errno.EIO, 'Input/output error')


def test_temporary_path_is_hidden_and_in_the_same_folder(tmp_path):
    part = temporary_path(tmp_path / 'epoch_1.pth')
    assert part == tmp_path / '.epoch_1.pth.part'
    assert part == temporary_path(str(tmp_path / 'epoch_1.pth'))


def test_unique_temporary_paths_differ(tmp_path):
    paths = {temporary_path(tmp_path / 'a', unique=True) for _ in range(100)}
    assert len(paths) == 100
    assert all(path.parent == tmp_path for path in paths)
    assert all(path.name.startswith('.a.') for path in paths)


@pytest.mark.parametrize('unique', [False, True])
def test_file_appears_only_when_it_is_complete(tmp_path, unique):
    path = tmp_path / 'result.json'
    with atomic_write(path, unique=unique) as part:
        part.write_text('{')
        assert names(tmp_path) == [part.name]
        part.write_text('{}')
    assert names(tmp_path) == ['result.json'] and path.read_text() == '{}'


def test_file_replaces_an_older_one(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with atomic_write(str(path)) as part:
        part.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new' and names(tmp_path) == ['file']


def test_text_is_written_in_utf_8(tmp_path):
    atomic_write_text(tmp_path / 'file', 'Größe × 2\n')
    assert (tmp_path / 'file').read_bytes() == 'Größe × 2\n'.encode()


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, OSError, ValueError])
def test_interrupted_write_keeps_the_older_file(tmp_path, error):
    (tmp_path / 'file').write_text('old')
    with pytest.raises(error):
        with atomic_write(tmp_path / 'file') as part:
            part.write_text('half')
            raise error
    assert names(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'old'


def test_failed_check_keeps_the_older_file(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')

    def check(part):
        assert part.read_text() == 'new'
        raise ValueError('not good')

    with pytest.raises(ValueError, match='not good'):
        with atomic_write(path, check) as part:
            part.write_text('new')
    assert names(tmp_path) == ['file'] and path.read_text() == 'old'


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_failing_disk_keeps_the_older_file(tmp_path, monkeypatch, function):
    (tmp_path / 'file').write_text('old')
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match='Input/output'):
        atomic_write_text(tmp_path / 'file', 'new')
    assert names(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'old'


def test_first_error_is_raised_if_the_temporary_file_cannot_be_removed(
    tmp_path, monkeypatch
):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, 'Read-only file system')

    with pytest.raises(OSError, match='Input/output'):
        with atomic_write(tmp_path / 'file') as part:
            part.touch()
            monkeypatch.setattr(os, 'unlink', read_only)
            fail()


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / 'missing' / 'file', 'text')
    assert names(tmp_path) == []


@pytest.mark.skipif(
    os.name == 'nt' or os.geteuid() == 0, reason='root may write everywhere'
)
def test_unwritable_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        atomic_write_text(tmp_path / 'file', 'text')
    tmp_path.chmod(0o700)
    assert names(tmp_path) == []


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_write(tmp_path / 'file'):
            pass
    assert names(tmp_path) == []


def test_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(io, 'sync', lambda path: calls.append(('sync', path)))
    replace = os.replace

    def recorded(part, path):
        calls.append(('replace', part))
        replace(part, path)

    monkeypatch.setattr(os, 'replace', recorded)
    atomic_write_text(tmp_path / 'file', 'text')
    part = temporary_path(tmp_path / 'file')
    assert calls == [('sync', part), ('replace', part), ('sync', tmp_path)]


def test_folder_replaces_an_older_folder(tmp_path):
    path = tmp_path / 'model'
    write_folder(path, old='1')
    write_folder(path, new='2', other='3')
    assert names(path) == ['new', 'other'] and names(tmp_path) == ['model']


def test_folder_is_synced_with_its_subfolders(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(io, 'sync', lambda path: synced.append(os.path.basename(path)))
    with atomic_write(tmp_path / 'model') as part:
        (part / 'inner').mkdir(parents=True)
        (part / 'inner' / 'weights').touch()
    assert {'weights', 'inner', part.name} <= set(synced)


def test_interrupted_folder_keeps_the_older_folder(tmp_path):
    path = tmp_path / 'model'
    write_folder(path, old='1')
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(path) as part:
            part.mkdir()
            (part / 'half').touch()
            raise KeyboardInterrupt
    assert names(path) == ['old'] and names(tmp_path) == ['model']


def test_folder_that_cannot_be_renamed_keeps_the_older_folder(tmp_path, monkeypatch):
    path = tmp_path / 'model'
    write_folder(path, old='1')
    replace = os.replace

    def failing(source, target):
        if source == temporary_path(path):
            fail()
        replace(source, target)

    monkeypatch.setattr(os, 'replace', failing)
    with pytest.raises(OSError, match='Input/output'):
        write_folder(path, new='2')
    assert names(path) == ['old'] and names(tmp_path) == ['model']


@pytest.mark.parametrize('is_folder', [False, True])
def test_leftover_of_a_killed_process_is_replaced(tmp_path, is_folder):
    leftover = temporary_path(tmp_path / 'file')
    if is_folder:
        leftover.mkdir()
        (leftover / 'part').touch()
    else:
        leftover.write_text('half')
    assert leftovers(tmp_path) == [leftover]
    atomic_write_text(tmp_path / 'file', 'text')
    assert names(tmp_path) == ['file'] and leftovers(tmp_path) == []


def test_leftovers_are_temporary_files_alone(tmp_path):
    for name in ('file', 'file.part', '.hidden', '.file.part', '.file.3f.part'):
        (tmp_path / name).touch()
    assert [p.name for p in leftovers(tmp_path)] == ['.file.3f.part', '.file.part']


def write_often(path, number):
    for _ in range(50):
        with atomic_write(path, unique=True) as part:
            part.write_text(str(number) * 1000)


def test_unique_names_let_processes_write_the_same_file(tmp_path):
    path = tmp_path / 'file'
    write_often(path, 0)
    context = multiprocessing.get_context('spawn')
    writers = [context.Process(target=write_often, args=(path, n)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert text == text[0] * 1000
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert names(tmp_path) == ['file']


@needs_signals
def test_killed_process_leaves_the_older_file_and_a_leftover(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    program = """if True:
        import os, signal, sys
        from mobilevig_det.io import atomic_write
        with atomic_write(sys.argv[1]) as part:
            part.write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)
    """
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, '-c', program, path], env=env)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == 'old'
    assert leftovers(tmp_path) == [temporary_path(path)]


def test_remove_reports_whether_the_file_is_gone(tmp_path, monkeypatch, caplog):
    logger = logging.getLogger('test_io')
    (tmp_path / 'file').touch()
    assert remove(tmp_path / 'file', logger) and names(tmp_path) == []
    assert remove(tmp_path / 'file', logger)  # it is already gone
    monkeypatch.setattr(os, 'remove', fail)
    assert not remove(tmp_path / 'file', logger)
    assert 'could not be deleted' in caplog.text


def write_pair(path, text):
    with atomic_write_group(path) as part:
        part.write_text(text)
        part.with_suffix('.bin').write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_group_replaces_the_old_files(tmp_path):
    for text in 'old', 'new':
        write_pair(tmp_path / 'm.xml', text)
        assert contents(tmp_path) == {'m.xml': text, 'm.bin': text}


def test_main_file_of_a_group_comes_last(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr('os.replace', lambda part, path: moved.append(path.name))
    with atomic_write_group(tmp_path / 'b') as part:
        for name in 'abc':
            part.with_name(name).write_text('')
    assert sorted(moved[:2]) == ['a', 'c'] and moved[2:] == ['b']


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_failed_group_keeps_the_old_files(error, tmp_path):
    write_pair(tmp_path / 'm.xml', 'old')
    with pytest.raises(error):
        with atomic_write_group(tmp_path / 'm.xml') as part:
            part.with_suffix('.bin').write_text('new')
            raise error
    assert contents(tmp_path) == {'m.xml': 'old', 'm.bin': 'old'}


def test_group_replaces_folders_and_leftovers_of_a_killed_process(tmp_path):
    (tmp_path / '.page.part').mkdir()
    (tmp_path / '.page.part' / 'half').write_text('')
    (tmp_path / 'page').mkdir()
    (tmp_path / 'page' / 'old.js').write_text('')
    with atomic_write_group(tmp_path / 'page') as part:
        part.mkdir()
        (part / 'new.js').write_text('')
    assert [path.name for path in tmp_path.iterdir()] == ['page']
    assert [path.name for path in (tmp_path / 'page').iterdir()] == ['new.js']
