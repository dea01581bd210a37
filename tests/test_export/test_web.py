"""The page of --format web, in Node and in a browser, compared with MMDetection."""

import copy
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from mobilevig_det.errors import UserError
from mobilevig_det.export import make_metadata
from mobilevig_det.export.web import (
    FILES,
    MODEL,
    PAGE,
    PAGE_FILES,
    check_folder,
    find_ort_web,
    write_web,
)

import cv2
import numpy as np
import pytest
import torch
from exported import build, config
from mmdet.apis import inference_detector
from mmengine.dataset import Compose
from tool import run

HERE = Path(__file__).parent
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
# Width and height; then what resize() makes of it, to compare with OpenCV's alone.
SIZES = [
    ((160, 120), (128, 96)),
    ((93, 201), (301, 64)),
    ((64, 64), (32, 32)),  # halves, which OpenCV does in a way of its own
    ((128, 128), (1, 77)),
    ((5, 300), (11, 1)),
    ((1, 2), (9, 8)),
]


def said(command, **options):
    """What a program prints, or its errors in the assertion."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope='module')
def ort_web(pytestconfig):
    """The npm package, in pytest's cache of this clone."""
    if not shutil.which('node'):
        pytest.skip('there is no node here')
    try:
        return find_ort_web(cache=pytestconfig.cache.mkdir('npm'))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope='module')
def playwright(pytestconfig):
    if CHROMIUM is None:
        pytest.skip('there is no chromium here')
    folder = pytestconfig.cache.mkdir('npm') / 'playwright'
    package = folder / 'node_modules' / 'playwright-core'
    if not package.is_dir():
        install = ['npm', 'install', 'playwright-core@1.65', '--prefix', folder]
        try:
            subprocess.run(install, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f'npm cannot install playwright-core: {error}')
    return package


class Page:
    """A folder of --format web, and the model in MMDetection."""

    def __init__(self, exporter, family, folder, ort_web):
        cfg = copy.deepcopy(exporter.cfg)
        if family == 'RTMDet-Ins':
            for step in cfg.test_dataloader.dataset.pipeline:
                if step['type'] == 'Resize':
                    step['scale'] = (160, 160)
                elif step['type'] == 'Pad':  # a value for each channel
                    step.update(size=(160, 192), pad_val=dict(img=(10, 100, 200)))
        self.model, self.folder = exporter.model, folder / 'page'
        self.pipeline = cfg.test_dataloader.dataset.pipeline
        self.model.cfg = cfg
        metadata = make_metadata(cfg, self.model, ('a', 'b', 'c', 'd', 'e'), 'detector')
        write_web(self.folder, metadata, ort_web)
        exporter.write(folder).rename(self.folder / MODEL)
        # Node before 22 takes .js for another kind of module.
        (self.folder / 'package.json').write_text('{"type": "module"}')

    def expected(self, image, shift=0.0):
        """Return MMDetection's detections in a BGR image, as arrays.

        ``shift`` is subtracted from all pixels of the model's input (0 to 255).
        """
        mean = self.model.data_preprocessor.mean
        mean += shift
        try:
            with torch.no_grad():
                found = inference_detector(self.model, image).pred_instances
        finally:
            mean -= shift
        return {key: value.numpy() for key, value in found.items()}

    def rounded(self, image):
        """Yield MMDetection's detections for inputs that differ by rounding."""
        for shift in (1e-5, -1e-5, 3e-5, -3e-5, 1e-4, -1e-4, 3e-4, -3e-4):
            yield self.expected(image, shift)

    def tensor(self, image):
        """The model's input, as MMDetection prepares it."""
        pipeline = [dict(type='mmdet.LoadImageFromNDArray'), *self.pipeline[1:]]
        data = Compose([s for s in pipeline if s['type'] != 'LoadAnnotations'])(
            dict(img=image, img_id=0)
        )
        data = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        return self.model.data_preprocessor(data, False)['inputs'].numpy()


@pytest.fixture(scope='module', params=['Mask R-CNN', 'RTMDet-Ins'])
def page(request, exporters, ort_web, tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    return Page(exporters[request.param], request.param, folder, ort_web)


def picture(width, height, seed=0):
    """BGR: noise, and larger things in it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for _ in range(6):
        at = tuple(int(rng.integers(0, side)) for side in (width, height))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.circle(image, at, int(rng.integers(3, 40)), color, -1)
    return image


def matches(found, expected):
    """Pair detections of the page with MMDetection's that are the same."""
    pairs = {}
    for one, detection in enumerate(found):
        far = np.abs(expected['bboxes'] - detection['box']).max(1, initial=0)
        far[expected['labels'] != detection['label']] = np.inf
        far[np.abs(expected['scores'] - detection['score']) > 1e-4] = np.inf
        far[list(pairs.values())] = np.inf
        if len(far) and far.min() < 1e-3:
            pairs[one] = int(far.argmin())
    return pairs


def paired(found, expected, rounded=()):
    """Return pairs of the page's detections and MMDetection's: nearly all of both.

    Rounding decides which of several boxes of equal scores remains, for example in an
    image of two pixels. A detection without a partner counts as well if MMDetection
    finds it too, once its input differs by rounding (``rounded``).
    """
    pairs = matches(found, expected)
    most = max(len(found), len(expected['scores']))
    explained = set(pairs)
    for other in rounded:
        if len(explained) >= 0.9 * most:
            break
        explained |= set(matches(found, other))
    assert len(explained) >= 0.9 * most
    scores = [detection['score'] for detection in found]
    assert scores == sorted(scores, reverse=True)
    return pairs.items()


def test_modules_in_node(page, tmp_path):
    images, jobs = [], []
    for i, ((width, height), resized) in enumerate(SIZES):
        images.append(picture(width, height, i))
        file = tmp_path / f'{i}.rgba'
        file.write_bytes(cv2.cvtColor(images[-1], cv2.COLOR_BGR2RGBA).tobytes())
        job = dict(file=str(file), width=width, height=height, resized=resized)
        jobs.append(job)
    (tmp_path / 'jobs.json').write_text(json.dumps(jobs))
    results = said(
        ['node', HERE / 'page_in_node.mjs', page.folder, tmp_path / 'jobs.json']
    )
    total = 0
    for image, job, result in zip(images, jobs, results, strict=True):
        width, height = job['resized']
        resized = np.array(result['resized']).reshape(height, width, 4)[..., 2::-1]
        np.testing.assert_array_equal(resized, cv2.resize(image, job['resized']))

        tensor = np.array(result['input']['data'], np.float32)
        tensor = tensor.reshape(result['input']['shape'])
        np.testing.assert_array_equal(tensor, page.tensor(image))

        expected = page.expected(image)
        pairs = paired(result['found'], expected, page.rounded(image))
        for one, i in pairs:
            mask = result['found'][one]['mask']
            pasted = np.zeros(image.shape[:2], bool)
            part = pasted[mask['top'] :, mask['left'] :]
            part = part[: mask['height'], : mask['width']]
            part[:] = np.reshape(mask['data'], part.shape)
            different = (pasted != expected['masks'][i]).sum()
            assert different <= 1e-3 * pasted.size
        total += len(pairs)
    assert total > 20


@pytest.fixture
def address(page):
    command = [sys.executable, page.folder / 'serve.py', '--port', '0']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with server, server.stdout as output:
        yield output.readline().split()[0]
        server.kill()


@pytest.mark.parametrize('page', ['Mask R-CNN'], indirect=True)
def test_page_in_chromium(page, address, playwright, tmp_path):
    images = [picture(160, 120), picture(93, 201, 1)]
    names = [str(tmp_path / name) for name in ('0.png', 'bad.png', '1.png')]
    for name, image in zip(names[::2], images):
        cv2.imwrite(name, image)
    Path(names[1]).write_text('not an image')
    script = HERE / 'page_in_chromium.mjs'
    shot = tmp_path / 'page.jpg'
    out = said(['node', script, address, playwright, CHROMIUM, shot, *names])
    loaded, first, bad, second = out['results']
    assert loaded['said'].endswith('finds: a, b, c, d, e.')
    for result, image in zip((first, second), images):
        expected = page.expected(image)
        sure = expected['scores'] >= 0.3
        expected = {key: value[sure] for key, value in expected.items()}
        pairs = paired(result['found'], expected)
        found = f'{len(result["found"])} found in {image.shape[1]} × {image.shape[0]}'
        assert pairs and result['said'].startswith(found)
        for one, i in pairs:
            area = result['found'][one]['area']
            assert abs(area - expected['masks'][i].sum()) <= 1e-3 * image.size
    assert bad == {'said': 'bad.png is not an image that this browser can read.'}
    assert 'found in 640 × 480 pixels' in out['camera']
    assert out['isolated']  # threads can be used
    # The page asks nobody else, and could not.
    assert all(url.startswith((address, 'blob:', 'data:')) for url in out['asked'])
    assert out['refused']
    for error in out['errors']:  # that one alone
        assert 'example.org' in error or 'the document' in error
    assert 'no WebAssembly' in out['without']
    assert 10_000 < shot.stat().st_size


@pytest.mark.parametrize('page', ['Mask R-CNN'], indirect=True)
def test_headers(page, address):
    for name, kind in [('', 'html'), ('page.js', 'script'), ('ort/x.wasm', None)]:
        if kind is None:
            (page.folder / name).write_text('')
        with urllib.request.urlopen(address + name) as answer:
            assert (kind or 'wasm') in answer.headers['Content-Type']
            assert answer.headers['Cross-Origin-Opener-Policy'] == 'same-origin'
            assert answer.headers['Cross-Origin-Embedder-Policy'] == 'require-corp'


@pytest.fixture
def fake_ort_web(tmp_path):
    """Files of the right names: what Node and browsers are not needed for."""
    for name in FILES:
        path = tmp_path / 'ort-web' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / 'ort-web'


def test_tool_writes_the_folder(
    fake_ort_web, traced_once, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cfg = config('Faster R-CNN')
    cfg.dump('my.py')
    meta = dict(dataset_meta=dict(classes=('circle', 'square', 'triangle')))
    torch.save(dict(state_dict=build(cfg).state_dict(), meta=meta), 'my.pth')
    flags = ['--format', 'web', '--ort-web', fake_ort_web]
    for _ in range(2):  # anew over the old one
        assert run('export', 'my.py', 'my.pth', *flags) == 0
    output = capsys.readouterr().out
    assert 'model.onnx compared with PyTorch' in output
    folder = Path('work_dirs', 'export', 'my_web')
    assert f'python {folder / "serve.py"}' in output
    assert {path.name for path in folder.iterdir()} == {
        *(path.name for pattern in PAGE_FILES for path in PAGE.glob(pattern)),
        *('model.onnx', 'model.json', 'ort'),
    }
    assert len(list((folder / 'ort').iterdir())) == len(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ['my_web']
    metadata = json.loads((folder / 'model.json').read_text())
    assert metadata['classes'] == ['circle', 'square', 'triangle']
    message = run('export', 'my.py', 'my.pth', *flags, '--part', 'backbone')
    assert '--part detector only' in message
    message = run('export', 'my.py', 'my.pth', *flags, '--out', tmp_path)
    assert 'would be replaced' in message and Path('my.pth').exists()


def test_other_folders_are_not_replaced(tmp_path):
    check_folder(tmp_path / 'new')
    check_folder(tmp_path)  # is empty
    (tmp_path / 'model.onnx').write_text('')
    for there in (tmp_path, tmp_path / 'model.onnx'):
        with pytest.raises(UserError, match='would be replaced'):
            check_folder(there)


def test_without_the_npm_package(fake_ort_web, tmp_path, monkeypatch):
    assert find_ort_web(fake_ort_web) == fake_ort_web
    (fake_ort_web / FILES[-1]).unlink()
    with pytest.raises(UserError, match=f'has no {FILES[-1]}.*npm pack'):
        find_ort_web(fake_ort_web)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match='install Node.js.*--ort-web'):
        find_ort_web(cache=tmp_path)
    (tmp_path / 'npm').write_text('#!/bin/sh\necho no such host >&2\nexit 1\n')
    (tmp_path / 'npm').chmod(0o755)
    monkeypatch.setattr(shutil, 'which', lambda name: str(tmp_path / name))
    with pytest.raises(UserError, match='npm cannot fetch .*no such host'):
        find_ort_web(cache=tmp_path / 'cache')
    assert not list((tmp_path / 'cache').iterdir())
