"""The Ray executor and its workers against the local one."""

import glob
import json
import os
import re
import shutil
import socket
import sys
import tarfile
import threading
from dataclasses import replace

from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError
from mobilevig_det.inference.names import SkipReport
from mobilevig_det.inference.sources import Inputs

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_detector
import tool
from bad_images import bad_files, encode, picture
from ray_in_process import run_workers_here

pa = pytest.importorskip('pyarrow', reason='pip install "mobilevig_det[ray]"')
ray = pytest.importorskip('ray', reason='pip install "mobilevig_det[ray]"')
pytest.importorskip('ray.data', reason='pip install "mobilevig_det[ray]"')
pq = pytest.importorskip('pyarrow.parquet')

from mobilevig_det.inference import ray_executor as ray_data  # noqa: E402
from mobilevig_det.inference.ray_executor import RayJob, RayWorker, make_blocks, unpack  # noqa: E402

NOT_UTF8 = os.fsdecode(b'caf\xe9.jpg')
SIZES = [(160, 120), (120, 160), (100, 100)]


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Twelve images of three sizes, and files that are none."""
    folder = tmp_path_factory.mktemp('photos')
    for i in range(12):
        image = picture(*SIZES[i % 3]).rotate(30 * i)
        (folder / f'{i:02}.jpg').write_bytes(encode(image))
    for name, (content, _) in list(bad_files().items())[:2]:
        (folder / name).write_bytes(content)
    (folder / 'thin.png').write_bytes(encode(picture(1, 9000), 'PNG'))
    os.rename(folder / '11.jpg', folder / NOT_UTF8)
    return folder


@pytest.fixture(scope='module')
def infer_rows(model_dir, photos, tmp_path_factory):
    """What tools/infer.py says of each image, by its name in Parquet."""
    out = tmp_path_factory.mktemp('infer')
    tool.run('infer', photos, '--no-save-vis', *flags(model_dir, out))
    lines = [
        line
        for path in out.glob('rows/*.jsonl')
        for line in path.open(encoding='utf-8')
    ]
    return {text(row['image']): row for row in map(json.loads, lines)}


def text(name):
    return os.fsencode(name).decode(errors='backslashreplace')


def flags(model_dir, out):
    checkpoint = model_dir / 'epoch_1.pth'
    # One by one, so that masks are equal to the pixel.
    options = ['--score-thr', 0.4, '--batch-size', 1]
    return ['--checkpoint', checkpoint, '--out-dir', out, *options]


@pytest.fixture
def run(model_dir, photos, tmp_path):
    """Run the tool: its exit code or message."""

    def run(*argv, source=photos, out=tmp_path / 'out'):
        return tool.run('infer_ray', source, *flags(model_dir, out), *argv)

    run.flags = lambda out: flags(model_dir, out)
    return run


def rows_in(out):
    files = glob.glob(f'{glob.escape(str(out))}/rows/*.parquet')
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def decode(masks):
    return mask_utils.decode(masks) if masks else np.zeros(1)


def assert_equal(found, expected, batched=False):
    """Rows, in any order, to the rounding of batches: with it a pixel that is half of
    the object can be counted or not."""
    by_name = {row['image']: row for row in found}
    assert len(found) == len(by_name) and by_name.keys() == expected.keys()
    for name, row in by_name.items():
        for key in ('width', 'height', 'labels', 'error'):
            assert row[key] == expected[name][key], (name, key)
        masks = [decode(r['masks']) for r in (row, expected[name])]
        assert np.mean(masks[0] != masks[1]) <= (0.01 if batched else 0), name
        np.testing.assert_allclose(row['scores'], expected[name]['scores'], rtol=1e-4)
        boxes = [np.reshape(r['boxes'], (-1, 4)) for r in (row, expected[name])]
        np.testing.assert_allclose(*boxes, rtol=1e-4, atol=1e-3)
    assert sum(len(row['labels']) for row in found) > 20


@pytest.fixture
def job(model_dir, tmp_path):
    def job(**changes):
        (tmp_path / 'out' / 'rows').mkdir(parents=True, exist_ok=True)
        cfg = load_config(str(model_dir / 'config.py'))
        return RayJob(
            **{
                **dict(
                    config=cfg.pretty_text,
                    checkpoint=str(model_dir / 'epoch_1.pth'),
                    categories=dict(enumerate(tiny_detector.CLASSES, 1)),
                    score_thr=0.4,
                    batch_size=1,
                    out_dir=str(tmp_path / 'out'),
                    folder=os.getcwd(),
                ),
                **changes,
            }
        )

    return job


def blocks_of(where, size=None):
    inputs = Inputs([str(where)], SkipReport('test'))
    blocks, _, _ = make_blocks(inputs, size, lambda name: False)
    return pa.concat_tables(blocks)


@pytest.fixture
def without_ray(monkeypatch):
    return run_workers_here(monkeypatch)


@pytest.mark.slow
def test_two_models_on_ray(run, infer_rows, tmp_path, monkeypatch):
    monkeypatch.setenv('RAY_ADDRESS', '127.0.0.1:9')  # of others; ours is started
    out = tmp_path / 'out'
    assert 'says why' in run('--actors', 2, '--block-size', 4)
    assert_equal(rows_in(out), infer_rows)
    assert len(os.listdir(out / 'rows')) == 4


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_message(run, tmp_path, monkeypatch):
    """Through Ray, as on a node that can't see the model."""
    run_on_ray = ray_data.run

    def blind(blocks, left, job, *more):
        job = replace(job, must_see=['/no/such/model.pth'])
        run_on_ray(blocks, left, job, *more)

    monkeypatch.setattr(ray_data, 'run', blind)
    message = run('--actors', 1)
    assert message.startswith('infer_ray.py: on the node ')
    assert 'there is no /no/such/model.pth' in message and '\n' not in message
    assert os.listdir(tmp_path / 'out' / 'rows') == []


def test_resumed(run, infer_rows, tmp_path, without_ray):
    """What has a row is not done again; what is cut off, is."""
    out = tmp_path / 'out'
    assert 'says why' in run('--block-size', 4)
    assert_equal(rows_in(out), infer_rows)
    files = sorted(f for f in os.listdir(out / 'rows') if f.endswith('.parquet'))

    # A power cut leaves one file half-written, a kill another.
    torn = out / 'rows' / files[0]
    names = set(pq.read_table(torn)['image'].to_pylist())
    torn.write_bytes(torn.read_bytes()[:-9])
    (out / 'rows' / '.0.part').write_bytes(b'PAR1')

    assert 'says why' in run('--resume', '--block-size', 4)
    (block,) = without_ray[1]
    (chunks,) = block['chunks'].to_pylist()
    assert {text(image.name) for image in unpack(chunks)} == names
    assert_equal(rows_in(out), infer_rows)
    assert sorted(os.listdir(out / 'rows')) == files


def test_worker_writes_the_records_of_the_local_executor(
    job, photos, infer_rows, tmp_path
):
    worker = RayWorker(job(batch_size=3))
    for _ in range(2):  # done again, as after a kill: the same files
        counts = worker(blocks_of(photos, 4))
    assert counts.to_pylist()[-1] == dict(images=3, refusal=None)
    assert_equal(rows_in(tmp_path / 'out'), infer_rows, batched=True)
    assert len(os.listdir(tmp_path / 'out' / 'rows')) == 4
    metadata = pq.read_schema(glob.glob(f'{tmp_path}/out/rows/*.parquet')[0]).metadata
    assert json.loads(metadata[b'categories'])['1'] == 'circle'


def test_worker_reads_bytes_and_addresses(job, photos, infer_rows, tmp_path):
    names = sorted(os.listdir(photos))[:7]
    expected = {text(name): infer_rows[text(f'{photos}/{name}')] for name in names}
    data = [(photos / name).read_bytes() for name in names]
    table = pa.table({'name': [text(name) for name in names], 'bytes': data})
    path = tmp_path / 'images.parquet'
    pq.write_table(table, path, row_group_size=3)
    RayWorker(job())(blocks_of(path))
    assert_equal(rows_in(tmp_path / 'out'), expected)

    shutil.rmtree(tmp_path / 'out')
    listed = tmp_path / 'list.txt'
    listed.write_text('\n'.join(f'file://{photos}/{n}' for n in [*names[:3], 'no.jpg']))
    RayWorker(job())(blocks_of(listed))
    found = {os.path.basename(row['image']): row for row in rows_in(tmp_path / 'out')}
    assert found['no.jpg']['error'] == 'there is no such file'
    assert found[names[0]]['scores'] == pytest.approx(expected[names[0]]['scores'])


def test_tar_shards_and_patterns(run, photos, infer_rows, tmp_path, without_ray):
    """What the local executor takes, this one takes, too."""
    with tarfile.open(tmp_path / 's.tar', 'w') as tar:
        for i in range(4):
            tar.add(photos / f'{i:02}.jpg', f'{i:02}.jpg')
    code = tool.run(
        'infer_ray',
        tmp_path / 's.tar',
        photos / '0[45].jpg',
        *run.flags(tmp_path / 'o'),
    )
    assert code == 0
    rows = {row['image'].rpartition('/')[2]: row for row in rows_in(tmp_path / 'o')}
    assert sorted(rows) == [f'{i:02}.jpg' for i in range(6)]
    for name, row in rows.items():
        assert row['scores'] == pytest.approx(infer_rows[f'{photos}/{name}']['scores'])


def test_coco_json_is_that_of_the_local_executor(
    run, model_dir, photos, tmp_path, without_ray
):
    tool.run('infer', photos, '--no-save-vis', *flags(model_dir, tmp_path / 'local'))
    assert 'says why' in run('--format', 'coco', '--block-size', 4)
    found, expected = (
        json.loads((tmp_path / folder / 'predictions.json').read_text())
        for folder in ('out', 'local')
    )
    for content in found, expected:
        for image in content['images']:
            image['file_name'] = text(image['file_name'])
    assert found['images'] == expected['images']
    assert found['categories'] == expected['categories']
    assert len(found['annotations']) == len(expected['annotations']) > 20
    for a, b in zip(found['annotations'], expected['annotations']):
        assert a['image_id'] == b['image_id'] and a['bbox'] == pytest.approx(b['bbox'])


def test_blocks_share_threads(job, photos):
    """New threads for each would get new memory from glibc, which isn't given back."""
    worker, seen = RayWorker(job()), []
    for row in range(2):
        worker(blocks_of(photos, 1).slice(row, 1))
        names = {t.ident: t.name for t in threading.enumerate()}
        seen.append({at for at, name in names.items() if name.startswith('model')})
    assert seen[0] and seen[0] == seen[1]


def test_what_a_worker_cannot_do_is_a_message_in_its_row(job, photos, tmp_path):
    block = blocks_of(photos, 1).slice(0, 1)
    for changes, message in (
        (dict(must_see=['/no/such/model.pth']), 'on the node .*no /no/such/model.pth'),
        (dict(out_dir=str(tmp_path / 'no')), 'cannot be written.*--resume'),
    ):
        (row,) = RayWorker(job(**changes))(block).to_pylist()
        assert re.search(message, row['refusal']) and row['images'] == 0
    (row,) = RayWorker(job())(block).to_pylist()
    assert row['refusal'] is None and row['images'] == 1


def test_other_settings_are_refused(run, without_ray, monkeypatch):
    real = ray_data.run
    monkeypatch.setattr(ray_data, 'run', lambda blocks, *more: real(blocks[:1], *more))
    assert 'images have no row' in run()
    monkeypatch.setattr(ray_data, 'run', None)
    assert 'has the rows of an unfinished run: --resume' in run()
    other = '--cfg-options', 'model.test_cfg.rcnn.max_per_img=7'
    message = run('--resume', '--score-thr', 0.5, *other)
    assert 'score_thr was 0.4 and is 0.5' in message
    assert 'max_per_img was 50 and is 7' in message


def test_mistakes_are_told_before_ray_starts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_data, 'run', None)
    (tmp_path / 'file').write_text('')
    assert 'cannot be written' in run(out=tmp_path / 'file' / 'out')
    assert 'There are no images in' in run(source=tmp_path / '*.nothing')
    assert 'no checkpoint file' in run('--checkpoint', tmp_path / 'no.pth')
    assert 'use --format rows' in run('--format', 'coco', out='s3://bucket/out')
    assert run('--actors', 0) == 2
    monkeypatch.setitem(sys.modules, 'ray.data', None)
    assert 'pip install "mobilevig_det[ray]"' in run()


@pytest.mark.parametrize('address', ['127.0.0.1:9', 'nowhere.invalid:6379', 'host'])
def test_no_cluster_there(address):
    with pytest.raises(UserError, match='no Ray cluster answers'):
        ray_data.start(address)


def test_a_cluster_that_wants_a_token(monkeypatch):
    def init(*_, **__):
        raise ray.exceptions.RayError('no token')

    monkeypatch.setattr(ray_data.ray, 'init', init)
    with socket.create_server(('127.0.0.1', 0)) as server:
        with pytest.raises(UserError, match='RAY_AUTH_MODE=token'):
            ray_data.start(f'127.0.0.1:{server.getsockname()[1]}')


def test_ray_that_cannot_start(monkeypatch):
    def init(*_, **__):
        raise Exception('The current node timed out during startup.')

    monkeypatch.setattr(ray_data.ray, 'init', init)
    with pytest.raises(UserError, match='cannot be started here: The .* startup. Its'):
        ray_data.start(None)


def test_shares():
    share_out = ray_data.share_out
    two, gpus = dict(CPU=2.0), dict(CPU=32.0, GPU=4.0)
    assert share_out(two, None, None, None, False) == (2, 0.8, 0)
    assert share_out(dict(CPU=1.0), None, None, None, False) == (1, 0.8, 0)
    assert share_out(dict(CPU=8.0), None, 4, None, False) == (2, 4, 0)
    assert share_out(gpus, None, None, None, True) == (4, 0.8, 1)
    assert share_out(gpus, None, None, 0.5, True) == (8, 0.8, 0.5)
    assert share_out(two, 3, 1, None, True) == (3, 1, 0)
    with pytest.raises(UserError, match='do not fit'):
        share_out(two, 3, 1, None, False)
