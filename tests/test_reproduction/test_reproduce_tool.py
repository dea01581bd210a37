"""tools/reproduce.py on stand-ins.

Checkpoints of the published layout, a miniature ImageNet and COCO, and a server that
can be told to misbehave.
"""

import copy
import hashlib
import http.server
import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

from mobilevig_det.checkpoints import weights
from mobilevig_det.config import find_config, load_config
from reproduction import figures as figures_module
from reproduction import run as running
from reproduction.confidence import wilson
from reproduction.figures import Figure

import pytest
import torch
from bad_images import encode, picture
from checkpoints import coco_checkpoint, imagenet_checkpoint
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from tool import load, run

SIZES = (6, 3, 1)  # images of each class of the miniature ImageNet
FILES = {name: weights.PUBLISHED[name].path for name in ('s', 'coco-m')}

CLASSIFIER = """
_base_ = {base!r}
num_classes = 3
model = dict(head=dict(num_classes=3),
             data_preprocessor=dict(mixing=dict(num_classes=3)))
test_dataloader = dict(
    batch_size=4, num_workers=0,
    dataset=dict(num_classes=3, pipeline=[
        dict(type='LoadImageFromFile', imdecode_backend='pillow'),
        dict(type='ResizeShortEdge', length=36),
        dict(type='CropCenter', size=32),
        dict(type='PackImage')]))
"""
DETECTOR = """
_base_ = {base!r}
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(96, 96), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""


def classifier_file(raw_class, averaged_class=1):
    """Return an ImageNet checkpoint of three classes.

    Its raw and its averaged weights each predict one class for every image.
    """
    checkpoint = imagenet_checkpoint()
    checkpoint['state_dict'] = copy.copy(checkpoint['state_dict_ema'])
    chosen = dict(state_dict=raw_class, state_dict_ema=averaged_class)
    for name, best in chosen.items():
        state = checkpoint[name]
        for key in ('head', 'dist_head'):
            state[f'{key}.weight'] = state[f'{key}.weight'][:3]
            state[f'{key}.bias'] = torch.zeros(3)
            state[f'{key}.bias'][best] = 1e6
    return checkpoint


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve a folder; break off a response, or serve one file instead of another."""

    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.server.instead.get(self.path, self.path).lstrip('/')
        path = self.server.folder / name
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        cut = self.path.lstrip('/') in self.server.cut
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def made(tmp_path_factory, shapes_root):
    """A folder with checkpoints, images and configs for all tests."""
    root = tmp_path_factory.mktemp('stand_ins')
    (root / 'files' / 'Detection').mkdir(parents=True)
    torch.save(classifier_file(0), root / 'files' / FILES['s'])
    for label, number in enumerate(SIZES):
        folder = root / 'imagenet' / 'val' / f'n{label}'
        folder.mkdir(parents=True)
        for i in range(number):
            (folder / f'{i}.jpg').write_bytes(encode(picture(48, 40)))
    (root / 'classifier.py').write_text(
        CLASSIFIER.format(base=find_config('mobilevig_ti_300e'))
    )
    (root / 'detector.py').write_text(
        DETECTOR.format(base=find_config('mobilevig_ti_fpn_shapes'))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES_ROOT', str(shapes_root))
        init_default_scope('mmdet')
        torch.manual_seed(0)
        detector = MODELS.build(load_config(str(root / 'detector.py')).model)
        with torch.no_grad():  # scores and boxes apart from each other
            detector.rpn_head.rpn_cls.weight.mul_(30)
            detector.roi_head.bbox_head.fc_cls.weight.mul_(30)
            detector.roi_head.mask_head.conv_logits.weight.mul_(30)
    checkpoint = coco_checkpoint(
        detector.state_dict(), classes=('circle', 'square', 'triangle')
    )
    torch.save(checkpoint, root / 'files' / FILES['coco-m'])
    return root


@pytest.fixture
def stand(made, shapes_root, tmp_path, monkeypatch):
    """The environment of a run; ``run(*flags)`` returns its exit code."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    monkeypatch.setenv('IMAGENET_ROOT', str(made / 'imagenet'))
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.folder, server.asked = made / 'files', []
        server.instead, server.cut = {}, set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = SimpleNamespace(server=server, out=tmp_path / 'out', figures=figures())
        here.classifier = str(made / 'classifier.py')
        here.detector = str(made / 'detector.py')
        here.figures = figures(here.classifier, here.detector)
        address = f'http://127.0.0.1:{server.server_port}/'
        here.run = lambda *flags: run_with(
            here.figures, '--repository', address, '--out-dir', here.out, *flags
        )
        yield here
        server.shutdown()


def figures(classifier='', detector='', top1=60.1, ap=None):
    """Return the published figures of the stand-ins: 6 of 10 images are correct."""
    found = [
        Figure('imagenet', classifier, 'top-1, %', top1, 0.2, 'paper', 'ti', 's'),
        Figure(
            'imagenet',
            classifier,
            'top-1 of the averaged weights, %',
            None,
            0,
            '–',
            'ti',
            's',
        ),
    ]
    for quantity in ('box AP', 'mask AP'):
        published = (ap or {}).get(quantity, 0.0)
        found.append(
            Figure('coco', detector, quantity, published, 5, 'log', 'ti', 'coco-m')
        )
    return found


def run_with(figures, *flags):
    try:
        load('reproduce').main([str(flag) for flag in flags], figures=figures)
    except SystemExit as end:
        return end.code
    raise AssertionError('the tool did not exit')


def rows(stand):
    content = json.loads((stand.out / 'reproduce.json').read_text())
    return {row['quantity']: row for row in content['figures']}


def record_passes(monkeypatch, stop_after=99):
    """Return a list that gets the passes from now on; press Ctrl-C after some."""
    real, made = running.score, []

    def score(cfg, file, images, device, quantities):
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(tuple(quantities))
        return real(cfg, file, images, device, quantities)

    monkeypatch.setattr(running, 'score', score)
    return made


def test_scores_match_the_stand_ins_and_mmdetection(
    stand, made, monkeypatch, capsys, tmp_path
):
    assert stand.run() == 0
    found = rows(stand)
    assert found['top-1, %']['measured'] == pytest.approx(60)
    assert found['top-1, %']['difference'] == pytest.approx(-0.1, abs=1e-4)
    assert found['top-1, %']['verdict'] == 'reproduced'
    averaged = found['top-1 of the averaged weights, %']
    assert averaged['measured'] == pytest.approx(30)
    assert averaged['verdict'] == 'for information'
    for name, quantity in (('s', 'top-1, %'), ('coco-m', 'mask AP')):
        content = (made / 'files' / FILES[name]).read_bytes()
        assert found[quantity]['file'] == dict(
            name=Path(FILES[name]).name,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
        )
    assert sorted(stand.server.asked) == sorted(f'/{path}' for path in FILES.values())
    assert sorted(os.listdir(stand.out)) == ['reproduce.json', 'reproduce.md']
    page = (stand.out / 'reproduce.md').read_text()
    assert page in capsys.readouterr().out
    assert '| top-1, % | 60.1 | 60.00 | -0.10 | 0.20 | reproduced | paper |' in page
    assert found['mask AP']['file']['sha256'] in page and torch.__version__ in page
    assert str(tmp_path) not in page  # except for the stand-ins' config

    real, metrics = Runner.test, {}
    monkeypatch.setattr(Runner, 'test', lambda self: metrics.update(real(self)))
    file = made / 'files' / FILES['coco-m']
    assert run('test', stand.detector, file, '--work-dir', tmp_path / 'work') == 0
    for quantity, key in (('box AP', 'bbox'), ('mask AP', 'segm')):
        expected = 100 * metrics[f'coco/{key}_mAP']
        assert found[quantity]['measured'] == pytest.approx(expected, abs=0.051)

    # All measurements are kept; published figures may have changed meanwhile.
    passes = record_passes(monkeypatch)
    stand.figures = figures(stand.classifier, stand.detector, top1=60.3)
    assert stand.run() == 1
    assert passes == []
    assert rows(stand)['top-1, %']['verdict'] == 'missed'
    assert rows(stand)['top-1, %']['difference'] == pytest.approx(-0.3, abs=1e-4)
    assert rows(stand)['box AP'] == found['box AP']


def test_resume_measures_only_what_is_missing_or_has_changed(
    stand, made, monkeypatch, tmp_path
):
    passes = record_passes(monkeypatch, stop_after=2)
    assert stand.run() == 130  # Ctrl-C
    assert set(rows(stand)) == {'top-1, %', 'top-1 of the averaged weights, %'}
    passes.clear()
    assert stand.run() == 0
    assert passes == [('box AP', 'mask AP')]
    passes.clear()
    other = tmp_path / 'other.pth.tar'
    torch.save(classifier_file(2), other)
    assert stand.run('--what', 'imagenet', '--checkpoint', f's={other}') == 1
    assert [quantities[0][:5] for quantities in passes] == ['top-1', 'top-1']
    found = rows(stand)
    assert found['top-1, %']['measured'] == pytest.approx(10)
    assert found['top-1, %']['file']['name'] == 'other.pth.tar'
    assert found['box AP']['verdict'] == 'reproduced'  # from the run before


def test_random_subset_of_images(stand, monkeypatch):
    assert stand.run('--what', 'imagenet', '--images', 4) == 2
    found = rows(stand)['top-1, %']
    assert found['reason'] == '4 images are too few: give 200 or more'
    monkeypatch.setattr(figures_module, 'MIN_IMAGES', 4)
    assert stand.run('--what', 'imagenet', '--images', 4) == 0
    found = rows(stand)['top-1, %']
    assert 'reason' not in found
    assert (found['images'], found['of']) == (4, 10)
    right = round(found['measured'] / 25)
    assert found['interval'] == pytest.approx(wilson(right, 4))
    assert ' 95 %: 4 of 10 images)' in (stand.out / 'reproduce.md').read_text()
    # A larger number means all images, which are measured again.
    assert stand.run('--what', 'imagenet', '--images', 11) == 0
    found = rows(stand)['top-1, %']
    assert (found['images'], found['interval']) == (10, None)


def test_random_subset_of_coco(stand):
    assert stand.run('--what', 'coco', '--images', 2) == 2
    found = rows(stand)['box AP']
    assert (found['images'], found['of']) == (2, 4)
    low, high = found['interval']
    assert 0 <= low <= high <= 100


@pytest.mark.parametrize(
    'trouble, reason',
    [
        ('cut', 'broke off'),
        ('wrong', 'the file is of a backbone or a detector'),
        ('absent', '404'),
        ('no data', 'Set IMAGENET_ROOT'),
        ('other hash', 'is not the published file'),
        ('no name', 'give it with --checkpoint ti='),
    ],
)
def test_not_checked_has_a_reason(stand, trouble, reason, monkeypatch, tmp_path):
    """The other figures are measured."""
    path = f'/{FILES["s"]}'
    if trouble == 'cut':
        stand.server.cut.add(path[1:])
    elif trouble == 'no data':
        monkeypatch.setenv('IMAGENET_ROOT', str(tmp_path / 'none'))
    elif trouble == 'other hash':
        published = weights.Published(FILES['s'], '0' * 64)
        monkeypatch.setitem(weights.PUBLISHED, 's', published)
    elif trouble == 'no name':
        stand.figures[:2] = [
            Figure(f.what, f.config, f.quantity, 60.0, 0.2, 'paper', 'ti', 'ti')
            for f in stand.figures[:2]
        ]
    else:
        instead = FILES['coco-m'] if trouble == 'wrong' else 'nothing'
        stand.server.instead[path] = f'/{instead}'
    monkeypatch.setattr(running, 'score', skip_detectors(running.score))
    assert stand.run() == 2
    found = rows(stand)
    assert found['top-1, %']['verdict'] == 'not checked'
    assert reason in found['top-1, %']['reason']
    assert 'measured' not in found['top-1, %']
    assert found['box AP']['verdict'] == 'reproduced'
    assert reason in (stand.out / 'reproduce.md').read_text()
    # A missed figure takes precedence over one that was not checked.
    stand.figures[2:] = figures('', stand.detector, ap={'box AP': 41.3})[2:]
    assert stand.run() == 1


def skip_detectors(score):
    """Run classifiers only; another test runs detectors."""

    def quick(cfg, file, images, device, quantities):
        if 'box AP' in quantities:
            return {quantity: running.Score(0.0) for quantity in quantities}
        return score(cfg, file, images, device, quantities)

    return quick


def test_measurements_survive_a_run_without_data(stand, monkeypatch, tmp_path):
    """Without the data they count as not checked; with it they are reused."""
    assert stand.run('--what', 'imagenet') == 0
    with monkeypatch.context() as patch:
        patch.setenv('IMAGENET_ROOT', str(tmp_path / 'none'))
        assert stand.run('--what', 'imagenet') == 2
        assert rows(stand)['top-1, %']['verdict'] == 'not checked'
    passes = record_passes(monkeypatch)
    assert stand.run('--what', 'imagenet') == 0
    assert passes == []


def test_wrong_arguments_and_foreign_reports_are_refused(stand, capsys):
    assert 'NAME=FILE' in stand.run('--checkpoint', 'xl=file')
    assert stand.run('--images', 0) == 2 and 'more than 0' in capsys.readouterr().err
    assert 'cannot be used' in stand.run('--device', 'cuda:99')
    stand.out.mkdir()
    (stand.out / 'reproduce.json').write_text('{"figures": [')
    assert 'Move it away' in stand.run('--what', 'imagenet')
    assert (stand.out / 'reproduce.json').read_text() == '{"figures": ['


def test_figures_of_another_machine_are_measured_again(stand, monkeypatch):
    assert stand.run('--what', 'imagenet') == 0
    path = stand.out / 'reproduce.json'
    content = json.loads(path.read_text())
    content['environment']['torch'] = '2.0.0'
    path.write_text(json.dumps(content))
    passes = record_passes(monkeypatch)
    assert stand.run('--what', 'imagenet') == 0
    assert len(passes) == 2


def test_checkpoints_from_mobilevig_weights(stand, made, tmp_path, monkeypatch):
    """Nothing is downloaded."""
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    shutil.copy(made / 'files' / FILES['s'], tmp_path)
    flags = ['--what', 'imagenet', '--out-dir', stand.out]
    assert run_with(stand.figures, *flags) == 0
    assert stand.server.asked == []


def test_family_selects_figures(stand, capsys):
    """Selecting none is an error."""
    assert stand.run('--what', 'coco', '--family', 'mobilevig') == 0
    assert set(rows(stand)) == {'box AP', 'mask AP'}
    message = stand.run('--family', 'greedyvig', '--arch', 'ti')
    assert '--family greedyvig has no size ti' in message
