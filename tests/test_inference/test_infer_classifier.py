"""tools/infer.py with a classifier: its rows and what is made of them, against a naive
loop over the images."""

import io
import json
import os
import re
import signal
import tarfile
from pathlib import Path
from unittest import mock

from mobilevig_det.datasets.shape_classes import CLASSES
from mobilevig_det.inference import run as inference_run
from mobilevig_det.inference.models import load_predictor

import numpy as np
import pytest
import tool
import torch
from bad_images import picture
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from test_infer_processes import run
from test_resume import Stop, StopAt, rows

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        _delete_=True, type='MobileViG', layer_scale_init_value=1.0,
        arch=dict(channels=[8, 16, 24, 32], blocks=(1, 1, 1, 1))),
    head=dict(in_channels=32, hidden_channels=16))
"""
MODEL = ['--checkpoint', 'model/epoch_1.pth', '--out-dir', 'out']
# Some share a batch, two are too small for the backbone.
SIZES = [(32, 32), (33, 40), (1, 1), (32, 32), (64, 35), (90, 1), (32, 32), (35, 64)]


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
    """A small classifier with random weights that tell images apart."""
    folder = tmp_path_factory.mktemp('model')
    base = tool.TOOLS.parent / 'configs/imagenet/mobilevig_ti_shapes.py'
    (folder / 'config.py').write_text(CONFIG.format(base=str(base)))
    init_default_scope('mmdet')
    torch.manual_seed(1)
    model = MODELS.build(Config.fromfile(folder / 'config.py').model)
    model.init_weights()
    with torch.no_grad():
        for _ in range(10):  # for its BatchNorms
            model.train()(torch.randn(8, 3, 1, 1) + 0.3 * torch.randn(8, 3, 64, 64))
    meta = dict(dataset_meta=dict(classes=CLASSES))
    checkpoint = dict(state_dict=model.state_dict(), meta=meta)
    torch.save(checkpoint, folder / 'epoch_1.pth')
    return folder


@pytest.fixture(autouse=True)
def work(model_dir, tmp_path, monkeypatch):
    """A folder with images, one of them text, two too small."""
    monkeypatch.chdir(tmp_path)
    os.symlink(model_dir, 'model')
    os.mkdir('images')
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        image = np.asarray(picture(width, height)) ^ rng.integers(0, 256, 3, np.uint8)
        Image.fromarray(image).save(f'images/{i}.png')
    Path('images/4_text.jpg').write_text('text, not an image')


def infer(*argv, stop=lambda picture: None, inputs=('images',)):
    """The tool's exit code or message; ``stop`` is called with what is looked at."""

    def load(*args):
        predictor = load_predictor(*args)
        predict_batch = predictor.predict_batch

        def predict_until(batch, models=None):
            for prepared in batch:
                stop(prepared.source)
            return predict_batch(batch, models)

        predictor.predict_batch = predict_until
        return predictor

    with mock.patch.object(inference_run, 'load_predictor', load):
        return tool.run('infer', *inputs, *MODEL, '--batch-size', '2', *argv)


def naive(files):
    """file name -> (class, score) of the five best, best first."""
    cfg = Config.fromfile('model/config.py')
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load('model/epoch_1.pth')['state_dict'])
    found = {}
    for name, file in files.items():
        image = np.asarray(Image.open(file), np.float32)
        image = (image - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        with torch.no_grad():
            tensor = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
            scores = model(tensor)[0].double().softmax(0).numpy()
        best = sorted(zip(scores, CLASSES), reverse=True)[:5]
        found[name] = [(label, score) for score, label in best]
    return found


IMAGES = [f'images/{i}.png' for i in range(len(SIZES))]
FILES = [IMAGES[i] for i, size in enumerate(SIZES) if min(size) > 1]


def assert_whole(expected=None):
    expected = expected or naive({name: name for name in FILES})
    text = Path('out/predictions.json').read_text()
    content = json.loads(text)
    assert [row['file_name'] for row in content] == list(expected)
    for row in content:
        labels, scores = zip(*expected[row['file_name']])
        assert [one['name'] for one in row['classes']] == list(labels)
        assert np.allclose([one['score'] for one in row['classes']], scores, atol=1e-5)
    assert text == json.dumps(content, indent=1)
    names = [row['image'] for row in rows()]
    assert len(names) == len(set(names))
    assert {path.name for path in Path('out').iterdir()} == {'predictions.json', 'rows'}


SKIPPED = 'infer.py: 3 skipped, see above.'


@pytest.mark.parametrize('batch_size', ['1', '2', '5'])
def test_against_a_naive_loop(batch_size, capsys):
    assert infer('--batch-size', batch_size) == SKIPPED
    expected = naive({name: name for name in FILES})
    assert len({tuple(name for name, _ in best) for best in expected.values()}) > 4
    assert_whole(expected)
    out, error = capsys.readouterr()
    for name, best in expected.items():
        (line,) = re.findall(rf'^{name}: (.*)', out, re.M)
        assert [part.split()[0] for part in line.split(', ')] == [n for n, _ in best]
    assert out.endswith('Model: model/epoch_1.pth\nClasses: out/predictions.json\n')
    assert 'skipped images/4_text.jpg: it is text, not an image' in error
    assert re.search('skipped images/2.png: .* 1 x 1 pixels .* least 32 x 32', error)


@pytest.mark.parametrize('number', range(0, len(FILES), 2))
@pytest.mark.parametrize('error', [Stop, KeyboardInterrupt])
def test_stopped_and_resumed(number, error, capsys):
    """No image is looked at twice, but for those that were with the classifier."""
    stopped = StopAt(number, error)
    if error is Stop:
        with pytest.raises(Stop):
            infer(stop=stopped)
        assert not Path('out/predictions.json').exists()
    else:
        assert infer(stop=stopped) == 130
        assert 'stopped; --resume resumes' in capsys.readouterr().err
        done = [row['image'] for row in rows() if not row['error']]
        content = json.loads(Path('out/predictions.json').read_text())
        assert [row['file_name'] for row in content] == sorted(done)
    done = {row['image'] for row in rows()}
    seen = []
    assert infer('--resume', stop=lambda p: seen.append(p.name)) == SKIPPED
    assert not done & set(seen) and done | set(seen) >= set(FILES)
    assert_whole()


def test_only_bad_ones():
    assert infer(inputs=['images/4_text.jpg', 'none.png']) is not None
    assert Path('out/predictions.json').read_text() == json.dumps([], indent=1)


def test_lists_and_shards(capsys):
    """… and names that are no UTF-8, in the file and on the screen."""
    odd = os.fsdecode(b'caf\xe9 \xe2\x80\xa8.png')
    os.link(FILES[2], odd)
    with tarfile.open('s.tar', 'w') as tar:
        for i in 0, 4:
            tar.add(FILES[i], f'a/{i}.png')
        tar.addfile(tarfile.TarInfo('a/4.cls'), io.BytesIO())
    Path('names.txt').write_bytes(
        os.fsencode(f'{FILES[1]}\n{odd}\ns.tar\n{FILES[1]}\n')
    )
    assert infer(inputs=['names.txt', FILES[5]]) == 0
    assert '\ncaf\\xe9 \u2028.png: ' in capsys.readouterr().out
    assert_whole(
        naive(
            {
                FILES[5]: FILES[5],
                FILES[1]: FILES[1],
                odd: FILES[2],
                's.tar/a/0.png': FILES[0],
                's.tar/a/4.png': FILES[4],
            }
        )
    )


def test_videos_are_no_images(capsys):
    """Named or listed, they are told of once, and not again."""
    Path('clip.mp4').write_bytes(b'')
    Path('names.txt').write_text(f'listed.avi\n{FILES[0]}\n')
    assert 'infer.py: 2 skipped' in infer(inputs=['clip.mp4', 'names.txt'])
    error = capsys.readouterr().err
    for name in 'clip.mp4', 'listed.avi':
        assert f'skipped {name}: classifiers do not support videos' in error
    assert_whole(naive({FILES[0]: FILES[0]}))
    assert infer('--resume', inputs=['clip.mp4', 'names.txt'])
    error = capsys.readouterr().err
    assert '2 were skipped by earlier runs' in error and 'do not support' not in error


def test_parquet():
    pq = pytest.importorskip('pyarrow.parquet')
    assert infer('--format', 'parquet') == SKIPPED
    table = pq.read_table('out/predictions.parquet')
    names = json.loads(table.schema.metadata[b'categories'])
    found = {
        row['image']: [names[str(label)] for label in row['labels']]
        for row in table.to_pylist()
        if row['error'] is None
    }
    expected = naive({name: name for name in FILES})
    assert found == {k: [label for label, _ in best] for k, best in expected.items()}
    assert infer('--resume') == SKIPPED  # the same rows, as today's file
    os.remove('out/predictions.parquet/00000.parquet')
    os.rmdir('out/predictions.parquet')
    assert_whole()


def test_another_classifier_is_refused():
    with pytest.raises(Stop):
        infer(stop=StopAt(4))
    weights = torch.load('model/epoch_1.pth')
    weights['meta']['dataset_meta']['classes'] = CLASSES[::-1]
    torch.save(weights, 'other.pth')
    more = ['--config', 'model/config.py', '--checkpoint', 'other.pth']
    message = infer('--resume', *more)
    assert 'out/rows is of another model or other settings' in message
    # A threshold changes nothing: the five best are told whatever they score.
    assert infer('--resume', '--score-thr', '0.9') == SKIPPED
    assert_whole()


@pytest.fixture
def expected():
    """Of more images, so that both of two processes get some."""
    names = [f'images/more_{i:02}.png' for i in range(24)]
    for name in names:
        os.link(FILES[0], name)
    return naive({name: name for name in [*FILES, *names]})


@pytest.mark.slow
def test_two_processes_one_dies(expected):
    done = run(processes=2, KILLED_RANK='1', KILLED_AT='1')
    assert done.returncode != 0 and '--resume resumes' in done.stdout, done.stdout
    assert rows() and not Path('out/predictions.json').exists()
    done = run('--resume', processes=2)
    assert done.stdout.count('Classes: out/predictions.json') == 1, done.stdout
    assert_whole(expected)
    assert len(list(Path('out/rows').glob('*.jsonl'))) == 2


@pytest.mark.slow
def test_sigkill(expected):
    done = run(KILLED_RANK='0', KILLED_AT='5')
    assert done.returncode == -signal.SIGKILL, done.stdout
    assert len(rows()) >= 4 and not Path('out/predictions.json').exists()
    assert infer('--resume') == SKIPPED
    assert_whole(expected)
