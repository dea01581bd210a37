"""Where the images of a run on many machines are, and what is left of them."""

import os

from mobilevig_det.errors import UserError

import pytest

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference.image_blocks import find_images, left_blocks, row_names  # noqa: E402

NONE_DONE = pa.array([], pa.string())


def no_skip(name, reason):
    raise AssertionError(f'{name}: {reason}')


def names_of(blocks):
    return [os.fsdecode(n) for block in blocks for n in block['names'][0].as_py()]


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


def test_folder(folder):
    images = find_images(str(folder), None, no_skip)
    assert names_of(left_blocks(images, NONE_DONE)) == expected(folder)


def test_address_of_a_folder(folder):
    """As an object store's: pyarrow has an address for local files, too."""
    images = find_images(f'file://{folder}', None, no_skip)
    found = names_of(left_blocks(images, NONE_DONE))
    assert found == [f'file://{name}' for name in expected(folder)]


def test_a_video_is_told_of(folder):
    (folder / 'clip.mp4').write_bytes(b'')
    told = []
    images = find_images(str(folder), None, lambda *skip: told.append(skip))
    assert len(images.names) == 20 and told[0][0].endswith('clip.mp4')


def test_list_with_names_of_all_sorts(tmp_path):
    names = [b'a b.jpg', b'caf\xe9.jpg', 'é.jpg'.encode(), b'a b.jpg', b'', b's3://b/1']
    path = tmp_path / 'list.txt'
    path.write_bytes(b'\n'.join(names) + b'\n')
    images = find_images(str(path), 2, no_skip)
    assert images.names.to_pylist() == [names[0], names[1], names[2], names[5]]
    assert row_names(images.names)[1].as_py() == 'caf\\xe9.jpg'
    blocks = left_blocks(images, pa.array(['caf\\xe9.jpg', 's3://b/1']))
    assert [b['names'][0].as_py() for b in blocks] == [[names[0]], [names[2]]]


@pytest.mark.parametrize('count, size', [(12, 8), (6400, 100), (80_000, 200)])
def test_size_of_blocks(tmp_path, count, size):
    path = tmp_path / 'list.txt'
    path.write_text('\n'.join(f'{i}.jpg' for i in range(count)))
    blocks = left_blocks(find_images(str(path), None, no_skip), NONE_DONE)
    assert len(blocks[0]['names'][0]) == size
    assert len(names_of(blocks)) == count == len(set(names_of(blocks)))


def test_what_is_done_does_not_move_the_rest_to_other_blocks(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('\n'.join(f'{i}.jpg' for i in range(100)))
    images = find_images(str(path), 10, no_skip)
    whole = left_blocks(images, NONE_DONE)
    done = pa.array([f'{i}.jpg' for i in (*range(10, 20), 55, 56)])
    left = left_blocks(images, done)
    assert left[0].equals(whole[0]) and left[1].equals(whole[2])
    assert left[4]['rows'][0].as_py() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert left_blocks(images, row_names(images.names)) == []


def test_parquet_of_paths(tmp_path):
    (tmp_path / 'list').mkdir()
    for i in range(2):
        table = pa.table({'id': [1, 2], 'path': [f'{i}/a.jpg', '0/b.jpg']})
        pq.write_table(table, tmp_path / 'list' / f'{i}.parquet')
    for where in (tmp_path / 'list', f'file://{tmp_path}/list'):
        images = find_images(str(where), None, no_skip)
        assert images.names.to_pylist() == [b'0/a.jpg', b'0/b.jpg', b'1/a.jpg']


def test_parquet_of_bytes_has_a_block_a_row_group(tmp_path):
    path = tmp_path / 'images.parquet'
    names = [f'{i}' for i in range(5)]
    table = pa.table({'name': names, 'data': [b'x'] * 5})
    pq.write_table(table, path, row_group_size=2)
    images = find_images(str(path), None, no_skip)
    blocks = left_blocks(images, pa.array(['0', '4']))
    assert names_of(blocks) == ['1', '2', '3']
    places = [(b['row_group'][0].as_py(), b['rows'][0].as_py()) for b in blocks]
    assert places == [(0, [1]), (1, [0, 1])]


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
def test_parquet_that_is_not_clear(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / 'a.parquet')
    with pytest.raises(UserError, match=message):
        find_images(str(tmp_path / 'a.parquet'), None, no_skip)


def test_refusals(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'torn.parquet').write_bytes(b'PAR1 and no end')
    (tmp_path / 'list.txt').write_text('\n')
    for where, message in (
        (tmp_path / 'no', 'There is no'),
        ('sftp://host/a', 'no address that pyarrow knows'),
        (tmp_path / 'torn.parquet', 'cannot be read'),
        (tmp_path / 'empty', 'no images'),
        (tmp_path / 'list.txt', 'no images'),
    ):
        with pytest.raises(UserError, match=message):
            find_images(str(where), None, lambda *skip: None)
