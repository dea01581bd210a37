"""tools/infer_ray.py on an object store: a stand-in, and moto's S3 where it is."""

import os
import urllib.request
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import pytest
import tiny_detector
import tool
from bad_images import encode, picture
from ray_in_process import run_workers_here

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
fs = pytest.importorskip('pyarrow.fs')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference import object_stores  # noqa: E402

KEY, SECRET = 'AKIAKEY', 'se/cr@et+?#%'
HARD = 'a b#c?d%20é.jpg'
LAYOUTS = ('in', 'list.txt', 'names.parquet', 'bytes')


class Store:
    """An S3 file system with the buckets ``photos`` and ``out``."""

    def __init__(self, filesystem, endpoint):
        self.filesystem, self.endpoint = filesystem, endpoint

    def address(self, path, secret=SECRET):
        return (
            f's3://{KEY}:{quote(secret, safe="")}@{path}?scheme=http&region=us-east-1'
            f'&endpoint_override={self.endpoint}'
        )

    def put(self, path, data):
        with self.filesystem.open_output_stream(path) as file:
            file.write(data)

    def get(self, path):
        with self.filesystem.open_input_stream(path) as file:
            return file.read()

    def files(self, folder):
        found = self.filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
        return [info.path for info in found if info.type == fs.FileType.File]


class StandIn(Store):
    """A folder behind pyarrow's own: right credentials and query, or no answer."""

    def __init__(self, folder):
        super().__init__(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), 'x:1')

    def from_uri(self, uri):
        found = fs.FileSystem.from_uri(uri)
        parts = urlsplit(uri)
        if parts.scheme != 's3':
            return found
        given = parts.username, unquote(parts.password or ''), parts.query
        if given != (KEY, SECRET, urlsplit(self.address('b')).query):
            raise OSError('AWS Error ACCESS_DENIED')
        return self.filesystem, unquote(parts.hostname + parts.path).rstrip('/')


class S3(Store):
    """A server in this process, which remembers when it is stopped and started."""

    def __init__(self):
        moto = pytest.importorskip('moto.moto_server.threaded_moto_server')
        self._new = moto.ThreadedMotoServer
        self.start(0)
        self.port = self.server.get_host_and_port()[1]
        endpoint = f'127.0.0.1:{self.port}'
        super().__init__(
            fs.S3FileSystem(
                access_key=KEY,
                secret_key=SECRET,
                endpoint_override=endpoint,
                scheme='http',
                region='us-east-1',
                allow_bucket_creation=True,
            ),
            endpoint,
        )

    def start(self, port=None):
        self.server = self._new('127.0.0.1', self.port if port is None else port)
        self.server.start()

    def stop(self):
        self.server.stop()

    def tell(self, what, data=b''):
        url = f'http://{self.endpoint}/moto-api/{what}'
        request = urllib.request.Request(url, data, {'Content-Type': 'text/plain'})
        urllib.request.urlopen(request).close()


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    return folder / 'epoch_1.pth'


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for i, name in enumerate((HARD, '1.jpg', '2.jpg', '3.jpg')):
        image = picture(*[(160, 120), (100, 100)][i % 2]).rotate(30 * i)
        (folder / name).write_bytes(encode(image))
    (folder / 'cut.jpg').write_bytes((folder / '1.jpg').read_bytes()[:500])
    return folder


@pytest.fixture
def run(model, monkeypatch):
    """Run the tool with a worker in this process: its exit code or message."""

    def run(source, out, *more):
        more = '--score-thr', 0.4, '--batch-size', 1, '--block-size', 2, *more
        argv = source, '--checkpoint', model, '--out-dir', out, *more
        return tool.run('infer_ray', *argv)

    run.after_block = lambda: None
    run_workers_here(monkeypatch, lambda: run.after_block())
    return run


def fill(store, photos):
    """All layouts of the same images."""
    for bucket in ('photos', 'out'):
        store.filesystem.create_dir(bucket)
    names = sorted(os.listdir(photos))
    data = [(photos / name).read_bytes() for name in names]
    paths = [f'photos/in/{name}' for name in names]
    for path, content in zip(paths, data):
        store.filesystem.create_dir('photos/in')
        store.put(path, content)
    listed = [f's3://{path}' for path in paths]
    store.put('photos/list.txt', '\n'.join(listed).encode())
    for path, table in (
        ('photos/names.parquet', dict(path=listed)),
        ('photos/bytes/1.parquet', dict(name=names, bytes=data)),
    ):
        store.filesystem.create_dir('photos/bytes')
        options = dict(filesystem=store.filesystem, row_group_size=2)
        pq.write_table(pa.table(table), path, **options)
    return store


@pytest.fixture
def stand_in(tmp_path, monkeypatch, photos):
    (tmp_path / 'store').mkdir()
    store = StandIn(tmp_path / 'store')
    monkeypatch.setattr(object_stores, '_from_uri', store.from_uri)
    return fill(store, photos)


@pytest.fixture
def s3(photos):
    store = S3()
    store.tell('reset')
    yield fill(store, photos)
    store.stop()


@pytest.fixture(params=['stand_in', 's3'])
def store(request):
    return request.getfixturevalue(request.param)


def rows_in(store, out):
    return pq.read_table(f'{out}/rows', filesystem=store.filesystem).to_pylist()


def assert_rows(store, out, photos, names='s3://photos/in/{}'):
    """One of each image, with what the tool finds in the local files."""
    rows = {row['image']: row for row in rows_in(store, out)}
    assert len(rows) == len(rows_in(store, out))
    assert rows.keys() == {names.format(name) for name in os.listdir(photos)}
    return {name.rpartition('/')[2]: row for name, row in rows.items()}


@pytest.fixture
def local_rows(run, photos, tmp_path):
    run(photos, tmp_path / 'local')
    table = pq.read_table(tmp_path / 'local' / 'rows')
    return {os.path.basename(row['image']): row for row in table.to_pylist()}


def assert_no_secret(text):
    for part in (KEY, 'cr@et', quote(SECRET, safe='')):
        assert part not in text


def test_rows_of_all_layouts(run, store, photos, local_rows, capfd):
    for layout in LAYOUTS:
        source, out = store.address(f'photos/{layout}'), store.address(f'out/{layout}')
        message = run(source, out)
        assert message == 'infer_ray.py: the column error of the rows says why.'
        names = '{}' if layout == 'bytes' else 's3://photos/in/{}'
        found = assert_rows(store, f'out/{layout}', photos, names)
        for name, row in found.items():
            for key in row.keys() - {'image'}:
                assert np.array_equal(row[key], local_rows[name][key]), (layout, key)
    assert sum(len(row['labels']) for row in found.values()) > 20

    files = store.files('out')
    assert len(files) == 4 * (3 + 1)
    for path in files:
        assert_no_secret(store.get(path).decode(errors='replace'))
    told = capfd.readouterr()
    assert f'Rows: s3://out/{layout}/rows/*.parquet' in told.out
    assert_no_secret(told.out + told.err)


def test_resumed(run, store, photos):
    """What has a row stays, also where the rest was cut off or deleted."""
    source, out = store.address('photos/in'), store.address('out/1')
    assert 'says why' in run(source, out)
    kept, cut, gone = (f for f in store.files('out/1') if f.endswith('.parquet'))
    store.put(cut, store.get(cut)[:-9])
    store.filesystem.delete_file(gone)
    before = store.get(kept)
    done = []
    run.after_block = lambda: done.append(1)
    assert 'says why' in run(source, out, '--resume')
    assert len(done) == 2 and store.get(kept) == before
    assert_rows(store, 'out/1', photos)

    message = run(source, out, '--resume', '--score-thr', 0.5)
    assert 'score_thr was 0.4 and is 0.5' in message and len(done) == 2
    assert_no_secret(message)


def test_refusals(run, store):
    good = store.address('photos/in')
    out = store.address('out/1')
    listed = f's3://{KEY}:{SECRET}@photos/in/1.jpg'
    store.put('photos/secret.txt', listed.encode())
    for source, into, expected in (
        (store.address('photos/no'), out, 'There is no s3://photos/no.'),
        (store.address('nobucket/in'), out, 'There is no s3://nobucket/in.'),
        (store.address('photos/secret.txt'), out, 'Leave them out'),
        (f's3://{KEY}:{SECRET}@photos/in', out, 's3://photos/in is no address'),
        (good, good.replace('scheme', 'shceme'), 's3://photos/in'),
        (good, good.replace('s3://', 'sftp://'), 'sftp://photos/in/rows is no addr'),
    ):
        message = run(source, into)
        assert isinstance(message, str) and expected in message
        assert_no_secret(message)


def test_names_that_cannot_be_opened(run, store):
    """Each is one image's error; the others have their rows."""
    reasons = {
        b's3://photos/in/1.jpg': None,
        b's3://photos/in/no.jpg': 'there is no such file',
        b's3://photos/in/caf\xe9.jpg': 'its name is not UTF-8, as addresses are',
        b'http://photos/in/1.jpg': 'http://photos/ is no address that pyarrow knows',
        b'no.jpg': 'there is no such file',
    }
    store.put('photos/list.txt', b'\n'.join(reasons))
    assert 'says why' in run(store.address('photos/list.txt'), store.address('out/1'))
    rows = {row['image']: row['error'] for row in rows_in(store, 'out/1')}
    assert len(rows) == len(reasons)
    for name, reason in reasons.items():
        found = rows[name.decode(errors='backslashreplace')]
        assert found is None if reason is None else found.startswith(reason), name


def test_s3_has_no_such_bucket_for_rows(run, s3):
    message = run(s3.address('photos/in'), s3.address('nobucket/out'))
    assert "--out-dir s3://nobucket/out cannot be written: Bucket 'nobucket'" in message


@pytest.mark.parametrize('refused', ['input', 'output'])
def test_s3_knows_no_such_credentials(run, s3, photos, tmp_path, refused):
    if refused == 'input':
        places = s3.address('photos/in'), tmp_path / 'out'
        expected = 's3://photos/in cannot be read: '
    else:
        places = photos, s3.address('out/1')
        expected = '--out-dir s3://out/1 cannot be written: '
    s3.tell('reset-auth', b'0')
    try:
        message = run(*map(str, places))
    finally:
        s3.tell('reset-auth', b'inf')
    assert expected in message
    assert 'ACCESS_DENIED' in message or 'INVALID_ACCESS_KEY' in message
    assert_no_secret(message)


@pytest.mark.slow
@pytest.mark.parametrize('layout', LAYOUTS)
def test_s3_dies_midway(run, s3, photos, layout):
    """Slow, for pyarrow tries again for some seconds."""
    source, out = s3.address(f'photos/{layout}'), s3.address('out/1')
    run.after_block = s3.stop
    message = run(source, out)
    assert 'on the node' in message and '--resume' in message
    assert_no_secret(message)
    run.after_block = lambda: None
    s3.start()
    before = {path: s3.get(path) for path in s3.files('out/1/rows')}
    assert len(before) == 1
    assert 'says why' in run(source, out, '--resume')
    names = '{}' if layout == 'bytes' else 's3://photos/in/{}'
    assert_rows(s3, 'out/1', photos, names)
    for path, content in before.items():
        assert s3.get(path) == content
