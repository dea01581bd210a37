"""Atomic writes of several files that belong together."""

from mobilevig_det.io import atomic_write_group

import pytest


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
