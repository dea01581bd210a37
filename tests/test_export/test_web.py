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
import tool
from bad_images import picture

HERE = Path(__file__).parent
MODULES = HERE.parents[1] / 'node_modules'
runner = tool.load('run_onnx')
SIZES = [(160, 120), (93, 201), (300, 210), (64, 64)]


@pytest.fixture(scope='module')
def ort_web(tmp_path_factory):
    """The npm package: this clone's, else downloaded."""
    if not shutil.which('node') or not shutil.which('npm'):
        pytest.skip('there is no node and npm here')
    for folder in (MODULES, Path('/usr/lib/node_modules')):
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
def page(ort_web, exported_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('page') / 'web'
    path = exported_tiny / 'model.onnx'
    write_web(path, folder, runner.load(str(path))[1], ort_web)
    return folder


def shapes(seed, width, height):
    """Something to be found; uint8 (H, W, 3), RGB."""
    image = np.asarray(picture(width, height)).copy()
    rng = np.random.default_rng(seed)
    for _ in range(6):
        at = int(rng.integers(0, width)), int(rng.integers(0, height))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.circle(image, at, 25, color, -1)
    return image


def test_it_finds_what_the_runner_does(page, tmp_path):
    images, jobs = [], []
    for i, (width, height) in enumerate(SIZES):
        image = shapes(i, width, height)
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


@pytest.fixture(scope='module')
def address(page):
    """Of the page, served as the documentation says."""
    server = subprocess.Popen(
        [sys.executable, page / 'serve.py', '0'], stdout=subprocess.PIPE, text=True
    )
    yield server.stdout.readline().strip()
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_browser_finds_what_the_runner_does(page, address, tmp_path):
    chromium = shutil.which('chromium')
    playwright = MODULES / 'playwright-core'
    if not chromium or not playwright.is_dir():
        pytest.skip('there is no Chromium, or no playwright-core in node_modules')
    paths = []
    for i, (width, height) in enumerate(SIZES):
        paths.append(tmp_path / f'{i}.png')
        cv2.imwrite(str(paths[-1]), shapes(i, width, height)[..., ::-1])
    out, screenshot = tmp_path / 'out.json', tmp_path / 'page.jpg'
    script = HERE / 'web_in_chromium.mjs'
    subprocess.run(
        ['node', script, address, playwright, chromium, out, screenshot, *paths],
        check=True,
        timeout=200,
    )
    found = json.loads(out.read_text())
    assert found['isolated']  # so it has threads
    detector = runner.Detector(str(page / 'model.onnx'))
    for path, result in zip(paths, found['results'], strict=True):
        expected = detector(cv2.imread(str(path)), 0.3)
        assert len(result) == len(expected['scores']) > 0
        for name, key in (('labels', 'label'), ('scores', 'score'), ('boxes', 'box')):
            values = [one[key] for one in result]
            assert np.allclose(values, expected[name], atol=1e-3, rtol=1e-5)


def test_nothing_of_the_page_is_loaded_from_afar(page):
    for name in ('index.html', 'page.js', 'detector.js'):
        assert '//' not in (page / name).read_text().replace('// ', '')


def test_it_is_served_with_the_headers_for_threads(address):
    for name in ('', 'page.js', 'ort/ort-wasm-simd-threaded.wasm'):
        with urllib.request.urlopen(address + name) as answer:
            assert answer.headers['Cross-Origin-Opener-Policy'] == 'same-origin'
            assert answer.headers['Cross-Origin-Embedder-Policy'] == 'require-corp'


def test_without_the_npm_package(tmp_path):
    with pytest.raises(UserError, match='npm install onnxruntime-web'):
        write_web(tmp_path / 'model.onnx', tmp_path / 'web', {}, tmp_path)
    assert not (tmp_path / 'web').exists()
