"""Records in Parquet, as a kill or a power cut leaves them."""

import os
import sys

from mobilevig_det.errors import UserError
from mobilevig_det.inference.results import empty_record

import pytest

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference.parquet_store import ParquetStore  # noqa: E402

SETTINGS = dict(score_thr=0.3)


def record(place, name):
    return empty_record(place, name, 'no image')


@pytest.fixture
def store(tmp_path):
    """A run that was killed after two blocks."""
    store = ParquetStore(str(tmp_path))
    store.begin(SETTINGS, False)
    store.write_block(['b'], [record(1, 'b')], {1: 'cat'})
    store.write_block(['a'], [record(0, 'a')], {1: 'cat'})
    return ParquetStore(str(tmp_path))


def files_of(store):
    return sorted(os.listdir(store.path))


def names_of(store):
    return {name for name in 'abc' if store.is_done(name)}


@pytest.mark.parametrize('kept', [0, 1, 4, 300, -9, -1])
def test_the_images_of_a_truncated_file_are_not_done(store, kept):
    files = files_of(store)
    torn = os.path.join(store.path, next(f for f in files if f.startswith('part')))
    (lost,) = pq.read_table(torn)['image'].to_pylist()
    with open(torn, 'rb+') as file:
        file.truncate(kept % os.path.getsize(torn))
    store.begin(SETTINGS, True)
    assert names_of(store) == {'a', 'b'} - {lost}
    # Nor may it stay: a resume with other blocks would write the image elsewhere.
    assert len(files_of(store)) == len(files) - 1


def test_incomplete_files_are_removed(store):
    files = files_of(store)
    open(os.path.join(store.path, '.0.part'), 'wb').close()
    store.begin(SETTINGS, True)
    assert files_of(store) == files and names_of(store) == {'a', 'b'}
    assert store.errors == 2


def test_records_are_in_the_order_of_the_inputs(store):
    store.write_block(['d', 'c'], [record(3, 'd'), record(2, 'c')], {1: 'cat'})
    found = store.records()
    assert len(found) == 4
    for _ in range(2):
        assert list(found) == [record(i, name) for i, name in enumerate('abcd')]


def test_missing_and_repeated_records_are_refused(store):
    assert store.check(2) == 2
    with pytest.raises(UserError, match='1 images have no row, and 0 rows'):
        store.check(3)
    store.write_block(['a', 'b'], [record(0, 'a')], {1: 'cat'})
    with pytest.raises(UserError, match='1 rows are duplicates'):
        store.check(2)


def test_an_unfinished_run_is_never_overwritten(store):
    with pytest.raises(UserError, match='unfinished run: --resume'):
        store.begin(SETTINGS, False)
    store.finish()
    store.begin(SETTINGS, False)
    assert files_of(store) == []


@pytest.mark.parametrize('kept', [None, 0, 1, -1])
def test_records_without_settings_are_not_resumed(store, kept):
    """Otherwise those of another model would be."""
    settings = os.path.join(store.path, '..', 'settings.json')
    with open(settings, 'rb') as file:
        whole = file.read()
    os.unlink(settings)
    if kept is not None:
        with open(settings, 'wb') as file:
            file.write(whole[:kept])
    with pytest.raises(UserError, match='no settings.json with the settings'):
        store.begin(SETTINGS, True)
    assert len([f for f in files_of(store) if f.startswith('part')]) == 2


def test_settings_do_not_disturb_readers_of_parquet(store):
    assert sorted(pq.read_table(store.path)['image'].to_pylist()) == ['a', 'b']


@pytest.mark.skipif(sys.platform == 'win32', reason='POSIX: limits of processes')
def test_a_full_disk_for_the_settings_is_one_message(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    fresh = ParquetStore(str(tmp_path / 'fresh'))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(UserError, match='fresh cannot be written'):
            fresh.begin(SETTINGS, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fresh.begin(dict(score_thr=0.5), False)
    assert not names_of(fresh)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_for_a_block_leaves_nothing(store, monkeypatch):
    """With the kernel's own error."""

    def full(table, path, **more):
        with open('/dev/full', 'wb') as file:
            file.write(b'PAR1')

    files = files_of(store)
    monkeypatch.setattr(pq, 'write_table', full)
    with pytest.raises(OSError, match='cannot be written: .*No space left on device'):
        store.write_block(['c'], [record(2, 'c')], {1: 'cat'})
    assert files_of(store) == files
