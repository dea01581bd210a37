"""Lists of paths, as files and through a pipe, beside what they were written from."""

import os
from pathlib import Path

from mobilevig_det.inference.images import InputImage
from mobilevig_det.inference.names import (
    DigestSet,
    SkipReport,
    count_lines,
    listed_names,
)
from mobilevig_det.inference.sources import Inputs, expand_braces

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = [b'a.jpg', b'with space .png', b'caf\xe9.png', 'été.jpg'.encode(), b'-']


@pytest.fixture
def skipped(capsys):
    """What is said of each thing that can't be used."""
    told = {}

    class Remembers(SkipReport):
        def skip(self, name, reason):
            super().skip(name, reason)
            told[name] = reason

    told['skipped'] = Remembers('test')
    return told


def names_in(data, skipped=None):
    Path('list.txt').write_bytes(data)
    found = listed_names('list.txt', skipped or SkipReport('test'))
    return [os.fsencode(name) for name in found]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    'data',
    [
        b'\n'.join(NAMES),
        b'\n'.join(NAMES) + b'\n',
        b'\r\n'.join(NAMES) + b'\r\n',
        b'\r\n'.join(NAMES),
        b'\xef\xbb\xbf' + b'\n'.join(NAMES),
        b'\n\n \n' + b'\n\n\t\n'.join(NAMES) + b'\n\n',
        b'\r\n\r\n' + b'\r\n\r\n'.join(NAMES),
        b'\0'.join(NAMES) + b'\0',
    ],
)
def test_kinds_of_lists(data):
    assert names_in(data) == NAMES


def test_names_with_line_ends_of_their_own():
    """What ``find -print0`` is for."""
    names = [b'two\nlines.jpg', b'returned\r.jpg']
    assert names_in(b'\0'.join(names) + b'\0') == names


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text('ab/\u00e9 ', min_size=1, max_size=9).filter(str.strip)),
    st.sampled_from(['\n', '\r\n', '\0']),
    st.integers(1, 7),
)
def test_any_names_in_any_pieces(names, end, piece):
    """As a pipe may hand them over."""
    data = end.join([*names, '']).encode()
    near, far = os.pipe()
    os.write(far, data)
    os.close(far)
    real = os.read
    try:
        os.read = lambda number, size: real(number, piece)
        path = f'/dev/fd/{near}'
        assert list(listed_names(path, SkipReport('test'))) == names
    finally:
        os.read = real
        os.close(near)


@pytest.mark.parametrize(
    'data, reason',
    [
        (None, 'there is no such file'),
        ('a.jpg\n'.encode('utf-16'), 'it is UTF-16'),
        (b'\xff\xd8' * 40000, 'not a list of images'),
    ],
)
def test_what_is_no_list(data, reason, skipped, capsys):
    if data is None:
        assert list(listed_names('list.txt', skipped['skipped'])) == []
    else:
        assert names_in(data, skipped['skipped']) == []
    assert reason in skipped['list.txt']
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('test: skipped list.txt: ')


def test_an_empty_list_and_a_folder_called_so(skipped, capsys):
    assert names_in(b'', skipped['skipped']) == []
    os.mkdir('folder.lst')
    assert list(listed_names('folder.lst', skipped['skipped'])) == []
    assert 'Is a directory' in skipped['folder.lst']


@pytest.mark.parametrize('data, count', [(b'', 0), (b'a\nb\n', 2), (b'a\0b\0', 2)])
def test_how_many(data, count):
    Path('list.txt').write_bytes(data)
    assert count_lines('list.txt') == count
    assert count_lines('-') is None


def test_all_inputs_in_their_order_each_once(capsys):
    """Against a dict, which keeps the order of what was put in first."""
    for name in 'b.jpg', 'a.jpg':
        Path(name).touch()
    Path('one.txt').write_text('c.jpg\na.jpg\nclip.mp4\nd.jpg\n')
    Path('two.lst').write_text('d.jpg\nlast.mp4\ne.jpg\nc.jpg\n')
    inputs = Inputs(
        ['one.txt', '*.jpg', 'clip.mp4', 'two.lst', 'b.jpg'], SkipReport('test')
    )
    order = ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg', 'last.mp4', 'e.jpg', 'clip.mp4']
    assert [found.name for found in inputs] == order
    assert [found.name for found in inputs] == order  # processes go over them anew
    assert [found for found in inputs if found.is_video] == [
        InputImage('last.mp4', 4),
        InputImage('clip.mp4', 6),
    ]
    assert '4 of the listed names are repeated' in capsys.readouterr().err
    assert inputs.count() == 2 + 4 + 4


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3000), max_size=3000))
def test_seen_names_are_a_set(numbers):
    seen, reference = DigestSet(), set()
    for number in numbers:
        assert seen.add(str(number)) == (number not in reference)
        reference.add(number)
    assert len(seen) == len(reference)


def test_many_seen_names():
    """Over several merges of the recent ones."""
    seen = DigestSet()
    names = [f'{i}\udce9' for i in range(20000)]
    assert all(map(seen.add, names)) and not any(map(seen.add, names))


def test_braces():
    assert expand_braces('s-{08..11}.tar') == [f's-{i:02}.tar' for i in range(8, 12)]
    assert len(expand_braces('{0..2}/{00..04}.jpg')) == 15
    assert expand_braces('{a..c}.tar') == ['{a..c}.tar']
    found = Inputs(['s-{0..2}.tar'], SkipReport('test'))
    assert found.streams == ['s-0.tar', 's-1.tar', 's-2.tar']
    Path('x-{0..2}.jpg').touch()  # a name is a name
    assert Inputs(['x-{0..2}.jpg'], SkipReport('test')).images == ['x-{0..2}.jpg']


@given(st.sets(st.text(st.characters(exclude_categories=())), max_size=20))
@settings(deadline=None)
def test_names_of_any_text(names):
    """Also such as stands for bytes that are no UTF-8; and after a reload."""
    done = DigestSet.from_digests(DigestSet(names).digests)
    assert all(name in done for name in names)
    assert not any(name + '#0' in done for name in names if name + '#0' not in names)
