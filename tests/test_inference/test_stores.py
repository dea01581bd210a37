"""Rows on the disk: torn tails, full disks, order, names."""

import json
import os
import resource
from collections import Counter

import mobilevig_det.inference.stores
from mobilevig_det.errors import UserError
from mobilevig_det.inference.local import Processes
from mobilevig_det.inference.names import printable
from mobilevig_det.inference.results import empty_record
from mobilevig_det.inference.run import Model
from mobilevig_det.inference.stores import (
    JsonLinesStore,
    JsonLinesWriter,
    check_settings,
    complete_lines,
    sorted_lines,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

SETTINGS = dict(format=1)


def rows(number):
    return [empty_record(i, f'ü{i}.jpg', 'why "so"') for i in range(number)]


def write(path, rows):
    with JsonLinesWriter(str(path)) as writer:
        for row in rows:
            writer.append(row)


def begin(folder, **more):
    """A folder to go on in; left at once."""
    with JsonLinesStore(str(folder)) as opened:
        opened.begin(dict(SETTINGS, **more), resume=True)
    return opened


def test_a_tail_torn_at_any_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda handle: None)  # which takes long
    begin(tmp_path)
    path = tmp_path / 'rows' / '0.jsonl'
    write(path, rows(3))
    whole = path.read_bytes()
    start = whole.rstrip(b'\n').rindex(b'\n') + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert [row for _, _, row in complete_lines(path)] == rows(2)
        done = begin(tmp_path).done()
        assert path.read_bytes() == whole[:start]
        assert [f'ü{i}.jpg' in done for i in range(4)] == [True, True, False, False]
        write(path, rows(3)[2:])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    'damage',
    [
        dict(image=None),
        dict(place='1'),
        dict(place=-1),
        dict(place=2**40),
        dict(frame=1.5),
        dict(width='9'),
        dict(labels=7),
        dict(labels=[1, 1]),
        dict(labels=['1']),
        dict(labels=[2]),
        dict(scores=None),
        dict(scores=['x']),
        dict(boxes=[[0, 0, 1]]),
        dict(boxes=[[0, 0, 1, None]]),
        dict(boxes=[7]),
        dict(masks=[None]),
        dict(masks=[dict(size=[9, 9])]),
        dict(masks=[dict(size=[9, -9], counts='11')]),
        dict(masks=[dict(size=[9, 9], counts=7)]),
        dict(masks='x'),
        dict(error=3),
    ],
)
def test_a_row_that_was_damaged_by_hand_is_predicted_again(tmp_path, damage):
    """And those after it; what is before it stays."""
    categories = dict(categories={'1': 'cat'})
    begin(tmp_path, **categories)
    path = tmp_path / 'rows' / '0.jsonl'
    good = dict(empty_record(0, 'a.jpg', None, 9, 9), labels=[1], scores=[0.5])
    good['boxes'] = [[0, 0, 1, 1]]
    good['masks'] = [dict(size=[9, 9], counts='11')]
    write(path, [good])
    whole = path.read_bytes()
    write(path, [{**good, 'image': 'b.jpg', 'place': 1, **damage}])
    write(path, [dict(good, image='c.jpg', place=2)])
    assert len(begin(tmp_path, **categories).done()) == 1
    assert path.read_bytes() == whole


def test_zeros_of_a_power_cut(tmp_path):
    begin(tmp_path)
    path = tmp_path / 'rows' / '0.jsonl'
    write(path, rows(2))
    whole = path.read_bytes()
    for tail in (b'\0' * 4096, b'\0' * 10 + b'\n', b'17\n', b'\xff\xfe\n' + whole):
        path.write_bytes(whole + tail)
        assert len(begin(tmp_path).done()) == 2
        assert path.read_bytes() == whole


def test_a_disk_that_is_full_at_any_byte(tmp_path):
    """No half of a row is left, and room again makes it go on."""
    path = tmp_path / '0.jsonl'
    write(path, rows(1))
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(len(whole)):
        with JsonLinesWriter(str(path)) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, hard))
            try:
                with pytest.raises(OSError, match=f"large: '{path}'"):
                    writer.append(rows(1)[0])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert path.read_bytes() == whole
    write(path, rows(1))
    assert path.read_bytes() == whole * 2


def test_a_row_is_the_systems_at_once(tmp_path):
    writer = JsonLinesWriter(str(tmp_path / '0.jsonl'))
    for row in rows(3):
        writer.append(row)
        assert list(complete_lines(tmp_path / '0.jsonl'))[-1][2] == row


def test_the_disk_itself_has_it_after_seconds(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, 'fsync', synced.append)
    now = iter([0.0, 1.0, 6.0, 6.0, 10.0, 12.0, 12.0])
    monkeypatch.setattr(mobilevig_det.inference.stores.time, 'monotonic', now.__next__)
    writer = JsonLinesWriter(str(tmp_path / '0.jsonl'))
    counts = []
    for row in rows(4):
        writer.append(row)
        counts.append(len(synced))
    assert counts == [0, 1, 1, 2]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_order(tmp_path_factory, data):
    """Whichever process has which row, and in which order it came."""
    folder = tmp_path_factory.mktemp('rows')
    expected = [
        dict(empty_record(place, f'{place}#{frame}', None), frame=frame)
        for place in range(6)
        for frame in range(data.draw(st.integers(1, 3)))
    ]
    shuffled = data.draw(st.permutations(expected))
    paths = [str(folder / f'{i}.jsonl') for i in range(3)]
    for path in paths:
        write(path, [])
    for row in shuffled:
        write(data.draw(st.sampled_from(paths)), [row])
    found = sorted_lines(paths)
    assert len(found) == len(expected)
    assert list(found) == list(found) == expected


def test_order_of_twelve_processes(tmp_path):
    begin(tmp_path)
    for i in range(12):
        write(tmp_path / 'rows' / f'{i}.jsonl', [])
    names = [os.path.basename(path) for path in JsonLinesStore(str(tmp_path)).files]
    assert names == [f'{i}.jsonl' for i in range(12)]


def test_names_that_are_not_utf8():
    assert printable(os.fsdecode(b'caf\xe9 \xc3\xa9.jpg')) == 'caf\\xe9 é.jpg'


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.data())
def test_shares(number, few, data):
    """Two processes that ask when they like: each input goes to one of them."""
    counters = Counter()

    def add(name, number):
        counters[name] += number
        return counters[name]

    shares = []
    for _ in range(2):
        processes = Processes('none')
        processes.size, processes.add = 2, add
        shares.append(processes.share(range(number), few, 'x'))
    found = [[], []]
    left = [0, 1]
    while left:
        which = data.draw(st.sampled_from(left))
        try:
            found[which].append(next(shares[which]))
        except StopIteration:
            left.remove(which)
    assert sorted(found[0] + found[1]) == list(range(number))
    assert all(one == sorted(one) for one in found)


def config(**model):
    return Config(
        dict(
            model=dict(type='X', **model),
            test_dataloader=dict(
                dataset=dict(pipeline=[dict(type='A'), dict(b=(1, 2))])
            ),
        )
    )


def settings_of(cfg, checkpoint, categories, score_thr):
    return Model(cfg, checkpoint, None, score_thr, categories, {}).settings()


def test_settings(tmp_path):
    checkpoint, moved = tmp_path / 'a.pth', tmp_path / 'b.pth'
    checkpoint.write_bytes(b'weights')
    moved.write_bytes(b'weights')
    other = tmp_path / 'c.pth'
    other.write_bytes(b'other')
    before = settings_of(config(k=1), str(checkpoint), {1: 'a'}, 0.3)
    assert json.loads(json.dumps(before)) == before
    check_settings('out', before, settings_of(config(k=1), str(moved), {1: 'a'}, 0.3))
    for now, difference in [
        ((config(k=2), str(checkpoint), {1: 'a'}, 0.3), 'model.k was 1 and is 2'),
        (
            (config(k=1, n=None), str(checkpoint), {1: 'a'}, 0.3),
            'model.n was not there and is None',
        ),
        ((config(), str(checkpoint), {1: 'a'}, 0.3), 'model.k was 1 and is not there'),
        ((config(k=1), str(checkpoint), {1: 'a'}, 0.5), 'score_thr was 0.3 and is 0.5'),
        ((config(k=1), str(checkpoint), {7: 'a'}, 0.3), 'categories.7 was not there'),
        ((config(k=1), str(other), {1: 'a'}, 0.3), 'weights was 7 bytes'),
    ]:
        with pytest.raises(UserError, match=f'rows is of another.*{difference}'):
            check_settings('rows', before, settings_of(*now))
    moved.write_bytes(b'Weights')
    with pytest.raises(UserError, match='weights was 7 bytes of sha256'):
        check_settings(
            'out', before, settings_of(config(k=1), str(moved), {1: 'a'}, 0.3)
        )


def test_two_runs_at_once(tmp_path):
    with JsonLinesStore(str(tmp_path)) as first:
        first.begin(SETTINGS, resume=True)
        with JsonLinesStore(str(tmp_path)) as second:
            with pytest.raises(UserError, match='Another run is writing'):
                second.begin(SETTINGS, resume=True)
    begin(tmp_path)


def test_rows_of_nobody(tmp_path):
    begin(tmp_path)
    write(tmp_path / 'rows' / '0.jsonl', rows(1))
    (tmp_path / 'rows' / 'settings.json').unlink()
    for resume in True, False:
        with JsonLinesStore(str(tmp_path)) as folder:
            with pytest.raises(UserError, match='no settings.json'):
                folder.begin(SETTINGS, resume)


def test_a_repeated_record_counts_once(tmp_path):
    """As two runs leave it on a file system without locks."""
    first, second = rows(2)
    write(tmp_path / '0.jsonl', [second, first])
    write(tmp_path / '1.jsonl', [dict(second, error='again')])
    found = sorted_lines([str(tmp_path / f'{i}.jsonl') for i in range(2)])
    assert list(found) == [first, second]


@pytest.mark.parametrize(
    'line',
    [
        b'{}',
        b'[' * 9000,
        b'{"place": 1e99}',
        b'null',
        json.dumps(dict(empty_record(0, 'a', None), place='x')).encode(),
        json.dumps(dict(empty_record(0, 'a', None), boxes=None)).encode(),
        json.dumps(dict(empty_record(0, 'a', None), labels=[1])).encode(),
    ],
)
def test_a_line_that_is_no_record_ends_a_file(tmp_path, line):
    """What follows it is predicted again."""
    begin(tmp_path)
    path = tmp_path / 'rows' / '0.jsonl'
    write(path, rows(2))
    whole = path.read_bytes()
    path.write_bytes(whole + line + b'\n' + whole)
    assert len(begin(tmp_path).done()) == 2
    assert path.read_bytes() == whole
