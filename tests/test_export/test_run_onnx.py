"""tools/run_onnx.py against MMDetection's own steps, and pycocotools."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

from mobilevig_det.export import load
from mobilevig_det.export.exported_detector import ExportedDetector
from mobilevig_det.export.openvino import write_openvino
from mobilevig_det.export.web import PAGE

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tool
import torch
from bad_images import bad_files, encode, exif, good_files, picture
from mmdet.datasets.transforms import PackDetInputs, Pad, Resize
from mmdet.models import DetDataPreprocessor, FCNMaskHead
from mmengine.config import ConfigDict
from PIL import Image

runner = tool.load('run_onnx')
SIZES = [(160, 120), (93, 201), (31, 33), (128, 128), (3, 64), (640, 427), (1, 1)]
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def photo(width, height, seed=0):
    """Edges, so that there is something to tell apart."""
    rng = np.random.default_rng(seed)
    image = np.asarray(picture(width, height)).copy()
    for _ in range(6):
        at = int(rng.integers(0, width)), int(rng.integers(0, height))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.circle(image, at, 25, color, -1)
    return image


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(bgr_to_rgb=False, pad_value=7, pad_size_divisor=1),
        dict(resize=dict(scale=[90, 50], keep_ratio=False)),
        dict(pad=dict(size=[160, 170], value=114)),
    ],
    ids=str,
)
def test_images_are_prepared_as_mmdetection_does(size, options):
    metadata = dict(
        mean=MEAN,
        std=STD,
        bgr_to_rgb=True,
        resize=dict(scale=[166, 100], keep_ratio=True),
        pad_size_divisor=32,
        pad_value=0,
    )
    metadata.update(options)
    image = photo(*size)
    tensor, shape, scale = runner.prepare(image, metadata)

    resize = dict(metadata['resize'], scale=tuple(metadata['resize']['scale']))
    steps = [Resize(**resize)]
    if 'pad' in options:
        height, width = options['pad']['size']
        steps.append(Pad(size=(width, height), pad_val=dict(img=114)))
    keys = ('img_shape', 'scale_factor')
    data = dict(img=image, img_shape=image.shape[:2])
    for step in [*steps, PackDetInputs(meta_keys=keys)]:
        data = step(data)
    same = ('mean', 'std', 'bgr_to_rgb', 'pad_size_divisor', 'pad_value')
    preprocessor = DetDataPreprocessor(**{key: metadata[key] for key in same})
    sample = data['data_samples']
    expected = preprocessor(dict(inputs=[data['inputs']], data_samples=[sample]))
    assert np.array_equal(tensor, expected['inputs'].numpy())
    assert shape == sample.img_shape and scale == sample.scale_factor


def test_masks_are_pasted_as_mmdetection_does():
    """Boxes of no size, of a pixel, over the edge, and ordinary ones."""
    rng = np.random.default_rng(0)
    height, width = 61, 83
    corners = rng.uniform(0, [width, height], (40, 2, 2))
    ordinary = np.hstack([corners.min(1), corners.max(1)])
    hard = [
        [0, 0, width, height],
        [10, 10, 11, 11],
        [10.4, 10.4, 10.6, 10.6],
        [5, 5, 5, 20],  # no area
        [7.5, 20, 7.5, 20],  # on a pixel's centre, no area
        [width, height, width, height],
        [-9.5, -3.2, 20.5, 200],
        [80, 0, 300.25, 4],
    ]
    boxes = np.float32([*hard, *ordinary])
    masks = cv2.GaussianBlur(rng.random((28, 28, len(boxes)), np.float32), (5, 5), 2)
    masks = np.ascontiguousarray((masks.transpose(2, 0, 1) - 0.5) * 4 + 0.5).clip(0, 1)
    masks[:4] = 1  # up to their edges
    head = FCNMaskHead(num_convs=0, num_classes=1, class_agnostic=True)
    expected = head._predict_by_feat_single(
        masks[:, None],
        torch.from_numpy(boxes.copy()),
        torch.zeros(len(boxes), dtype=torch.long),
        dict(scale_factor=(1.0, 1.0), ori_shape=(height, width)),
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
        activate_map=True,
    ).numpy()
    assert expected.any((1, 2)).sum() > 35
    for mask, box, other in zip(masks, boxes, expected):
        pasted = runner.paste_in_box(mask, box, (height, width), 0.5)
        # A sum may be rounded to the other side of the threshold.
        assert (pasted != other).sum() <= 1, box
    assert np.array_equal(
        [
            runner.paste_in_box(*pair, (height, width), 0.5)
            for pair in zip(masks, boxes)
        ][:4],
        expected[:4],
    )


IN_NODE = """
import { Detector } from './detector.js';
const { masks, data, dims, box, width, height, scale } = JSON.parse(process.argv[2]);
const { paste } = Detector.prototype;
const output = { data: Float32Array.from(data), dims };
const found = paste.call({ metadata: { masks } }, output, 0, box, width, height, scale);
console.log(JSON.stringify(Array.from(found.data)));
"""


@pytest.mark.parametrize('swapped', [True, False, None])
@pytest.mark.parametrize('scale', [(0.5, 0.5), (1.6, 1.57), (0.63, 0.7)])
def test_masks_of_the_whole_image(scale, swapped, tmp_path, monkeypatch):
    """RTMDet-Ins: its head's two interpolations, on logits; in both orders of the
    factors, in Python, in MMDetection's place, and in the page."""
    logits = torch.randn(1, 1, 12, 16, generator=torch.manual_seed(0)) * 4
    up = torch.nn.functional.interpolate(logits, scale_factor=8, mode='bilinear')
    x, y = scale
    factors = (y, x) if swapped is False else (x, y)
    ceil = [int(np.ceil(n * (1 / s))) for n, s in zip(up.shape[2:], factors)]
    expected = torch.nn.functional.interpolate(up, size=ceil, mode='bilinear')
    height, width = shape = ceil[0] - 5, ceil[1] - 3
    expected = (expected.sigmoid() > 0.4)[0, 0, :height, :width].numpy()

    masks = dict(kind='image', stride=8, threshold=0.4)
    if swapped is not None:  # files of before have no such key
        masks['swapped'] = swapped
    probabilities = logits.sigmoid()[0].numpy()
    found = dict(
        boxes=np.float32([[0, 0, 9, 9]]),
        labels=np.int64([0]),
        scores=np.float32([0.9]),
        masks=probabilities,
    )

    def check(mask):
        assert mask.shape == shape and (mask != expected).mean() < 1e-3

    metadata = dict(classes=['a'], masks=masks)
    detector = SimpleNamespace(metadata=metadata, run=lambda _: dict(found))
    monkeypatch.setattr(runner, 'prepare', lambda *_: (None, (96, 128), scale))
    image = np.zeros((*shape, 3), np.uint8)
    (mask,) = runner.Detector.__call__(detector, image)['masks']
    check(mask)

    sample = SimpleNamespace(ori_shape=shape, scale_factor=scale)
    tensors = {key: torch.tensor(value) for key, value in found.items()}
    (mask,) = ExportedDetector._masks(detector, tensors, sample)
    check(mask.numpy())

    if shutil.which('node'):
        for name in ('detector.js', 'masks.js', 'prepare.js'):
            shutil.copy(PAGE / name, tmp_path)
        (tmp_path / 'package.json').write_text('{"type": "module"}')
        (tmp_path / 'paste.js').write_text(IN_NODE)
        given = dict(masks=masks, data=probabilities.ravel().tolist(), scale=scale)
        given.update(dims=[1, 12, 16], box=[0, 0, 9, 9], width=width, height=height)
        command = ['node', tmp_path / 'paste.js', json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        check(np.array(json.loads(done.stdout), bool).reshape(shape))


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    blobs = [
        cv2.GaussianBlur(rng.random((h, w)), (0, 0), 3) > 0.5
        for h, w in ((50, 70), (300, 40), (1, 9), (9, 1))
    ]
    noise = rng.random((33, 47)) > 0.5
    full = np.ones((700, 900), bool)
    for mask in (*blobs, noise, ~noise, full, ~full, np.ones((1, 1), bool)):
        expected = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        found = runner.encode(mask)
        assert found['counts'] == expected['counts'].decode()
        assert found['size'] == expected['size']


@pytest.fixture(scope='module')
def model_dir(exported_tiny):
    """A tiny detector: config, checkpoint, and what was exported of it."""
    metadata = load(exported_tiny / 'model.onnx').metadata
    names = exported_tiny / 'model.onnx', exported_tiny / 'model.xml'
    write_openvino(*names, metadata)
    return exported_tiny


@pytest.fixture(scope='module')
def by_infer(model_dir, tmp_path_factory):
    """Images, and what tools/infer.py makes of them."""
    folder = tmp_path_factory.mktemp('images')
    for i, size in enumerate([(160, 120), (120, 160), (93, 201), (64, 64)]):
        cv2.imwrite(str(folder / f'{i}.png'), photo(*size, i))
    gray = picture().convert('L')
    turned = picture().transpose(Image.Transpose.ROTATE_90)
    (folder / 'gray.jpg').write_bytes(encode(gray))
    (folder / 'alpha.png').write_bytes(encode(picture().convert('RGBA'), 'PNG'))
    (folder / 'turned.jpg').write_bytes(encode(turned, exif=exif(6)))
    (folder / 'text.jpg').write_text('not an image')
    out = tmp_path_factory.mktemp('infer')
    checkpoint = model_dir / 'epoch_1.pth'
    options = '--checkpoint', checkpoint, '--device', 'cpu', '--score-thr', 0.4
    assert '1 skipped' in tool.run('infer', folder, *options, '--out-dir', out)
    return folder, json.loads((out / 'predictions.json').read_text()), out


@pytest.mark.parametrize('name', ['model.onnx', 'model.xml'])
def test_detections_are_those_of_infer(name, model_dir, by_infer, tmp_path, capsys):
    images, expected, drawn = by_infer
    options = '--score-thr', 0.4, '--out-dir', tmp_path
    code = tool.run('run_onnx', model_dir / name, images, *options)
    assert code == 'run_onnx.py: 1 skipped, see above.'
    assert re.search('skipped .*text.jpg: OpenCV cannot', capsys.readouterr().err)
    found = json.loads((tmp_path / 'predictions.json').read_text())
    for key in 'info', 'images', 'categories':
        assert found[key] == expected[key]
    assert len(found['annotations']) == len(expected['annotations']) > 20
    for a, b in zip(found['annotations'], expected['annotations']):
        assert list(a) == list(b)
        for key in 'id', 'image_id', 'category_id', 'iscrowd':
            assert a[key] == b[key]
        assert a['score'] == pytest.approx(b['score'], abs=1e-4)
        assert a['bbox'] == pytest.approx(b['bbox'], abs=0.05)
        assert a['segmentation']['size'] == b['segmentation']['size']
        masks = [mask_utils.decode(x['segmentation']) for x in (a, b)]
        # Rounding moves a pixel now and then.
        assert (masks[0] != masks[1]).sum() <= max(1, 5e-3 * b['area'])
        assert a['area'] == masks[0].sum()
    pictures = {path.name for path in (drawn / 'vis').iterdir()}
    assert pictures == {path.name for path in (tmp_path / 'vis').iterdir()}
    for name in pictures:
        one, other = (cv2.imread(str(at / 'vis' / name)) for at in (tmp_path, drawn))
        assert one.shape == other.shape


def test_needs_nothing_of_the_training_stack(model_dir, by_infer, tmp_path):
    """The file alone, in another folder, where torch and mm* can't be imported."""
    copy = tmp_path / 'mine.py'
    copy.write_text((tool.TOOLS / 'run_onnx.py').read_text())
    program = (
        'import sys\n'
        'for name in ("torch", "mmengine", "mmcv", "mmdet", "mobilevig_det",\n'
        '             "pycocotools", "PIL"):\n'
        '    sys.modules[name] = None\n'
        'import mine\n'
        'mine.main(sys.argv[1:])\n'
    )
    images, out = by_infer[0], tmp_path / 'out'
    done = subprocess.run(
        [sys.executable, '-c', program, model_dir / 'model.onnx', images / '0.png']
        + ['--out-dir', out],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / 'predictions.json').read_text())['annotations']
    assert (out / 'vis' / '0.png').is_file()


def test_every_kind_of_image(tmp_path):
    """What infer.py reads is read, and the same; what it refuses is refused."""
    from mobilevig_det.datasets import read_image

    for name, data in good_files().items():
        path = tmp_path / name
        path.write_bytes(data)
        assert np.array_equal(runner.read_image(path), read_image(str(path))), name
    for name, (data, _) in bad_files().items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(runner.Unusable):
            runner.read_image(tmp_path / name)
    with pytest.raises(runner.Unusable, match='No such file'):
        runner.read_image(tmp_path / 'missing.jpg')


def test_inputs_are_never_overwritten(model_dir, tmp_path):
    (tmp_path / 'vis').mkdir()
    image = tmp_path / 'vis' / 'a.png'
    cv2.imwrite(str(image), photo(64, 64))
    before = image.read_bytes()
    options = '--out-dir', tmp_path, '--score-thr', 0.9
    assert tool.run('run_onnx', model_dir / 'model.onnx', image, *options) == 0
    assert image.read_bytes() == before
    assert len(list((tmp_path / 'vis').iterdir())) == 2


def test_an_image_that_cannot_be_resized(model_dir, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'line.png'), np.zeros((1, 20000, 3), np.uint8))
    options = tmp_path / 'line.png', '--out-dir', tmp_path, '--no-save-vis'
    code = tool.run('run_onnx', model_dir / 'model.onnx', *options)
    assert code == 'run_onnx.py: 1 skipped, see above.'
    assert '20000 x 1 pixels cannot become (128, 0)' in capsys.readouterr().err


@pytest.mark.parametrize('what', ['missing', 'other', 'backbone', 'checkpoint', 'junk'])
def test_models_that_are_refused(what, tmp_path):
    path = tmp_path / ('model.pth' if what == 'checkpoint' else 'model.onnx')
    if what == 'junk':
        path.write_bytes(b'junk')
    elif what == 'checkpoint':
        path.write_bytes(b'PK')
    elif what != 'missing':
        onnx = pytest.importorskip('onnx')
        x = onnx.helper.make_tensor_value_info('x', 1, [1])
        y = onnx.helper.make_tensor_value_info('y', 1, [1])
        node = onnx.helper.make_node('Neg', ['x'], ['y'])
        graph = onnx.helper.make_graph([node], 'g', [x], [y])
        opset = onnx.helper.make_opsetid('', 20)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
        if what == 'backbone':
            text = json.dumps(dict(format=1, part='backbone'))
            onnx.helper.set_model_props(model, {'mobilevig_det': text})
        onnx.save(model, path)
    message = tool.run('run_onnx', path, 'a.png')
    expected = dict(
        missing='There is no model',
        checkpoint='There is no model',
        other='metadata says: none',
        backbone='metadata says: a backbone of format 1',
        junk='cannot be loaded',
    )
    assert message.startswith('run_onnx.py: ') and expected[what] in message


def test_a_runtime_that_is_missing(model_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    message = tool.run('run_onnx', model_dir / 'model.onnx', 'a.png')
    assert message.endswith('pip install onnxruntime')
