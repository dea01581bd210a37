"""The Parquet files of Ray's workers, as a kill or a power cut leaves them."""

import sys

from mobilevig_det.errors import UserError
from mobilevig_det.inference.detection_rows import arrow_schema, error_row

import pytest

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference.detection_files import RowFiles  # noqa: E402


@pytest.fixture
def files(tmp_path):
    files = RowFiles(str(tmp_path))
    files.begin({}, False)
    for name in 'a', 'b':
        row = dict(error_row(name, 'no image'))
        table = pa.Table.from_pylist([row], schema=arrow_schema())
        pq.write_table(table, f'{files.path}/part-{name}.parquet')
    return files


def rows_left(tmp_path):
    return sorted(path.name for path in (tmp_path / 'rows').iterdir())


@pytest.mark.parametrize('kept', [0, 1, 4, 300, -9, -1])
def test_a_torn_file_is_not_done(files, tmp_path, kept):
    assert sorted(files.names().to_pylist()) == ['a', 'b']
    torn = tmp_path / 'rows' / 'part-b.parquet'
    torn.write_bytes(torn.read_bytes()[:kept])
    assert files.names().to_pylist() == ['a']
    # Nor may it stay: a resume with other blocks would write b elsewhere.
    assert rows_left(tmp_path) == ['part-a.parquet']


def test_what_was_begun_is_removed(files, tmp_path):
    (tmp_path / 'rows' / '.0.part').write_bytes(b'PAR1')
    files.names()
    assert rows_left(tmp_path) == ['part-a.parquet', 'part-b.parquet']


@pytest.mark.parametrize('kept', [None, 0, 1, -1])
def test_rows_of_nobody_knows_what(files, tmp_path, kept):
    """Without whole settings another model's rows would be gone on with."""
    settings = tmp_path / 'settings.json'
    whole = settings.read_bytes()
    settings.unlink() if kept is None else settings.write_bytes(whole[:kept])
    with pytest.raises(UserError, match='settings.json, which says what made them'):
        files.begin({}, True)
    settings.write_bytes(whole)
    files.begin({}, True)
    assert settings.read_bytes() == whole


@pytest.mark.skipif(sys.platform == 'win32', reason='POSIX: limits of processes')
def test_no_place_for_settings(files, tmp_path):
    """As on a full disk: what is there stays, and the next begin is a first one."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    fresh = RowFiles(str(tmp_path / 'fresh'))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        files.begin({}, True)
        with pytest.raises(UserError, match='fresh cannot be written'):
            fresh.begin({}, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(files.names().to_pylist()) == ['a', 'b']
    fresh.begin(dict(score_thr=0.5), False)
    assert len(fresh.names()) == 0
