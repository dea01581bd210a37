"""The page's own code, in Node, against tools/run_onnx.py."""

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from mobilevig_det.errors import UserError
from mobilevig_det.export.web import INSTALL, write_web

import cv2
import numpy as np
import pytest
import tiny_detector
import tool
from bad_images import picture

HERE = Path(__file__).parent
runner = tool.load('run_onnx')
SIZES = [(160, 120), (93, 201), (300, 210), (64, 64)]


@pytest.fixture(scope='module')
def ort_web(tmp_path_factory):
    """The npm package: this clone's, else downloaded."""
    if not shutil.which('node') or not shutil.which('npm'):
        pytest.skip('there is no node and npm here')
    for folder in (HERE.parents[1] / 'node_modules', Path('/usr/lib/node_modules')):
        if (folder / 'onnxruntime-web').is_dir():
            return folder / 'onnxruntime-web'
    folder = tmp_path_factory.mktemp('npm')
    try:
        subprocess.run(
            [*INSTALL.split(), '--prefix', folder, '--ignore-scripts', '--no-audit'],
            check=True,
            capture_output=True,
            timeout=120,
        )
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f'npm cannot install onnxruntime-web here: {error}')
    return folder / 'node_modules' / 'onnxruntime-web'


@pytest.fixture(scope='module')
def page(ort_web, tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    tiny_detector.make(folder / 'model')
    common = folder / 'model' / 'config.py', folder / 'model' / 'epoch_1.pth'
    path = folder / 'model.onnx'
    assert tool.run('export', *common, '--format', 'onnx', '--out', path) == 0
    write_web(path, folder / 'web', runner.load(str(path))[1], ort_web)
    return folder / 'web'


def test_it_finds_what_the_runner_does(page, tmp_path):
    images, jobs = [], []
    for i, (width, height) in enumerate(SIZES):
        image = np.asarray(picture(width, height)).copy()
        rng = np.random.default_rng(i)
        for _ in range(6):
            at = int(rng.integers(0, width)), int(rng.integers(0, height))
            color = tuple(int(c) for c in rng.integers(0, 256, 3))
            cv2.circle(image, at, 25, color, -1)
        (tmp_path / f'{i}.rgb').write_bytes(image.tobytes())
        job = dict(file=str(tmp_path / f'{i}.rgb'), width=width, height=height)
        jobs.append(dict(job, resized=[128, 96]))
        images.append(image)
    (tmp_path / 'jobs.json').write_text(json.dumps(jobs))
    out = tmp_path / 'out.json'
    done = subprocess.run(
        ['node', HERE / 'web_in_node.mjs', page, tmp_path / 'jobs.json', out],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    detector = runner.Detector(str(page / 'model.onnx'))
    for image, result in zip(images, json.loads(out.read_text())):
        # Pixels are resized as OpenCV does it.
        small = np.array(result['small']).reshape(96, 128, 3)
        assert np.abs(small - cv2.resize(image, (128, 96))).max() == 0
        expected = detector(np.ascontiguousarray(image[..., ::-1]), 0.3)
        found = result['found']
        assert len(found) == len(expected['scores']) > 0
        assert [one['label'] for one in found] == expected['labels'].tolist()
        scores = np.array([one['score'] for one in found])
        assert np.allclose(scores, expected['scores'], atol=1e-3, rtol=0)
        boxes = np.array([one['box'] for one in found])
        assert np.allclose(boxes, expected['boxes'], atol=1e-3, rtol=1e-5)
        for one, mask in zip(found, expected['masks']):
            part = one['mask']
            pasted = np.zeros_like(mask)
            rows = slice(part['top'], part['top'] + part['height'])
            columns = slice(part['left'], part['left'] + part['width'])
            shape = part['height'], part['width']
            pasted[rows, columns] = np.array(part['data']).reshape(shape)
            assert (pasted != mask).sum() <= 1


def test_nothing_of_the_page_is_loaded_from_afar(page):
    for name in ('index.html', 'page.js', 'detector.js'):
        assert '//' not in (page / name).read_text().replace('// ', '')


def test_it_is_served_with_the_headers_for_threads(page):
    server = subprocess.Popen(
        [sys.executable, page / 'serve.py', '0'], stdout=subprocess.PIPE, text=True
    )
    try:
        address = server.stdout.readline().strip()
        for name in ('', 'page.js', 'ort/ort-wasm-simd-threaded.wasm'):
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers['Cross-Origin-Opener-Policy'] == 'same-origin'
                assert answer.headers['Cross-Origin-Embedder-Policy'] == 'require-corp'
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_without_the_npm_package(tmp_path):
    with pytest.raises(UserError, match='npm install onnxruntime-web'):
        write_web(tmp_path / 'model.onnx', tmp_path / 'web', {}, tmp_path)
    assert not (tmp_path / 'web').exists()
