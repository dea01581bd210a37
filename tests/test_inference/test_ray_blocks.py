"""How the images of a run are divided into blocks, and what is left of them."""

from mobilevig_det.errors import UserError
from mobilevig_det.inference.names import SkipReport
from mobilevig_det.inference.sources import Inputs

import pytest

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference.ray_executor import make_blocks, unpack  # noqa: E402


class NoSkips(SkipReport):
    def skip(self, name, reason):
        raise AssertionError(f'{name}: {reason}')


def blocks_of(where, size=None, done=(), report=None):
    """Names of the images of each block."""
    inputs = Inputs([str(where)], report or NoSkips('test'))
    blocks, left, count = make_blocks(inputs, size, done.__contains__)
    found = [
        [image for chunks in block['chunks'].to_pylist() for image in unpack(chunks)]
        for block in blocks
    ]
    assert left == sum(map(len, found)) <= count
    return [[image.name for image in block] for block in found]


def flat(blocks):
    return [name for block in blocks for name in block]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(20):
        (folder / f'{i:02}.jpg').write_bytes(b'')
    (folder / 'notes.txt').write_text('no image')
    return folder


def expected(folder):
    return [f'{folder}/{i:02}.jpg' for i in range(20)]


def test_a_folder(folder):
    assert flat(blocks_of(folder)) == expected(folder)


def test_the_address_of_a_folder(folder):
    """As an object store's: pyarrow has an address for local files, too."""
    found = flat(blocks_of(f'file://{folder}'))
    assert found == [f'file://{name}' for name in expected(folder)]


def test_videos_are_reported(folder):
    (folder / 'clip.mp4').write_bytes(b'')
    report = SkipReport('test', quiet=True)
    assert flat(blocks_of(folder, report=report)) == expected(folder)
    assert report.count == 1


@pytest.mark.parametrize('count, size', [(12, 8), (6400, 104), (80_000, 200)])
def test_the_size_of_blocks_follows_the_number_of_images(tmp_path, count, size):
    path = tmp_path / 'list.txt'
    path.write_text('\n'.join(f'{i}.jpg' for i in range(count)))
    blocks = blocks_of(path)
    assert len(blocks[0]) == size
    assert flat(blocks) == [f'{i}.jpg' for i in range(count)]


@pytest.mark.parametrize('size', [10, None])
def test_done_images_do_not_move_others_to_other_blocks(tmp_path, size):
    path = tmp_path / 'list.txt'
    path.write_text('\n'.join(f'{i}.jpg' for i in range(100)))
    done = {f'{i}.jpg' for i in (*range(10, 20), 55, 56)}
    left = [[n for n in block if n not in done] for block in blocks_of(path, size)]
    assert blocks_of(path, size, done) == [block for block in left if block]
    assert blocks_of(path, size, {f'{i}.jpg' for i in range(100)}) == []


def test_parquet_of_paths(tmp_path):
    (tmp_path / 'list').mkdir()
    for i in range(2):
        table = pa.table({'id': [1, 2], 'path': [f'{i}/a.jpg', '0/b.jpg']})
        pq.write_table(table, tmp_path / 'list' / f'{i}.parquet')
    for where in (tmp_path / 'list', f'file://{tmp_path}/list'):
        report = SkipReport('test', quiet=True)  # 0/b.jpg is there twice
        found = flat(blocks_of(where, report=report))
        assert found == ['0/a.jpg', '0/b.jpg', '1/a.jpg']


@pytest.mark.parametrize('size', [None, 1])
def test_parquet_of_bytes_has_a_block_a_row_group(tmp_path, size):
    path = tmp_path / 'images.parquet'
    names = [f'{i}' for i in range(5)]
    table = pa.table({'name': names, 'data': [b'x'] * 5})
    pq.write_table(table, path, row_group_size=2)
    assert blocks_of(path, size) == [['0', '1'], ['2', '3'], ['4']]
    assert blocks_of(path, size, {'0', '4'}) == [['1'], ['2', '3']]


@pytest.mark.parametrize(
    'table, message',
    [
        ({'a': [1]}, 'has the columns a'),
        ({'a': ['x'], 'b': ['y']}, 'has the columns a, b'),
        ({'path': ['x'], 'b': [b''], 'c': [b'']}, 'at most one of bytes'),
        ({'path': ['x', 'x'], 'b': [b'', b'']}, 'for example x'),
        ({'path': ['x', None]}, '1 names are empty'),
    ],
)
def test_ambiguous_parquet_is_refused(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / 'a.parquet')
    with pytest.raises(UserError, match=message):
        blocks_of(tmp_path / 'a.parquet')


def test_inputs_that_cannot_be_read_are_refused_or_skipped(tmp_path):
    (tmp_path / 'torn.parquet').write_bytes(b'PAR1 and no end')
    for where, error, message in (
        (tmp_path / 'no.parquet', AssertionError, 'there is no such file'),  # a skip
        ('sftp://host/a', UserError, 'no address that pyarrow knows'),
        (tmp_path / 'torn.parquet', UserError, 'cannot be read'),
    ):
        with pytest.raises(error, match=message):
            blocks_of(where)
