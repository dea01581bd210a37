"""--int8: layers compute in int8, nothing else does, and the AP decides."""

import json
import os
import shutil
import subprocess
import sys

import mobilevig_det.export
from mobilevig_det.config import load_config
from mobilevig_det.errors import UserError
from mobilevig_det.export import exported_detector, int8, load
from mobilevig_det.export.int8 import quantize_onnx, quantize_openvino
from mobilevig_det.export.onnx.graph import BUILT

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from exported import build, config
from mmdet.utils import register_all_modules
from tool import run

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def arrays(height, width, seed=0):
    image = np.random.default_rng(seed).normal(size=(1, 3, height, width))
    return dict(image=image.astype(np.float32), size=np.array([height, width]))


@pytest.fixture(scope='module')
def files(exporters, tmp_path_factory):
    """Paths of float32 and int8 files of a tiny Mask R-CNN, by suffix."""
    folder = tmp_path_factory.mktemp('float32')
    (folder / 'int8').mkdir()
    inputs = [arrays(96, 128), arrays(64, 64), arrays(96, 160)]
    made = {}
    for suffix, quantize in (('.onnx', quantize_onnx), ('.xml', quantize_openvino)):
        source = exporters['Mask R-CNN'].write(folder, suffix)
        made[suffix] = source, folder / 'int8' / source.name
        metadata = load(source).metadata | {'int8': True}
        quantize(*made[suffix], metadata, inputs)
    return made


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_detects_nearly_the_same_in_any_size(files, suffix):
    float32, quantized = map(load, files[suffix])
    assert quantized.metadata == float32.metadata | {'int8': True}
    for size in [(96, 128), (64, 320), (224, 96)]:
        want, found = float32(**arrays(*size, 1)), quantized(**arrays(*size, 1))
        assert {key: x.shape[1:] for key, x in found.items()} == {
            key: x.shape[1:] for key, x in want.items()
        }
        number = min(len(want['scores']), len(found['scores']))
        assert number > 20
        error = np.abs(want['scores'][:number] - found['scores'][:number]).max()
        assert 1e-3 < error < 0.2  # float32 would be within 1e-6


def test_onnx_layers_are_int8_and_post_processing_is_float32(files):
    float32, int8_graph = (onnx.load(path).graph for path in files['.onnx'])
    weights = {x.name: onnx.numpy_helper.to_array(x) for x in int8_graph.initializer}
    by_output = {name: node for node in int8_graph.node for name in node.output}

    def int8_weight(node):
        source = by_output.get(node.input[1])
        if source is None or source.op_type != 'DequantizeLinear':
            return None
        return weights[source.input[0]]

    layers = [
        n for n in int8_graph.node if n.op_type in ('Conv', 'Gemm', 'ConvTranspose')
    ]
    found = {node.name: int8_weight(node) for node in layers}
    in_float = [name for name, weight in found.items() if weight is None]
    # Two of each of four levels, the box head's two, the masks' last one.
    assert len(in_float) == 4 * 2 + 2 + 1 < len(layers) / 3
    for weight in found.values():
        assert weight is None or weight.dtype == np.int8 and np.abs(weight).max() <= 64
    # Scores and boxes come from layers, not from 256 values.
    softmax = next(node for node in int8_graph.node if node.op_type == 'Softmax')
    assert by_output[softmax.input[0]].op_type == 'Gemm'

    def built(graph):
        nodes = [node for node in graph.node if node.name.startswith(BUILT)]
        return sorted((n.name, n.op_type, str(n.attribute), n.output[0]) for n in nodes)

    assert built(int8_graph) == built(float32) and len(built(int8_graph)) > 100


def test_openvino_layers_are_int8_and_post_processing_is_float32(files):
    model = openvino.Core().read_model(str(files['.xml'][1]))
    by_type = {}
    for op in model.get_ops():
        by_type.setdefault(op.get_type_name(), []).append(op)
    layers = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
    for layer in (op for name in layers for op in by_type[name]):
        source = layer.input_value(1).get_node()
        while source.get_type_name() != 'Constant':
            source = source.input_value(0).get_node()
        assert source.get_element_type() == openvino.Type.i8
        # NNCF leaves all eight bits to those that sum up nine products.
        most = 127 if layer.get_type_name() == 'GroupConvolution' else 64
        assert np.abs(source.get_data()).max() <= most
    readers = {
        port.get_node().get_type_name()
        for op in by_type['FakeQuantize']
        for port in op.output(0).get_target_inputs()
    }
    assert 'Convolution' in readers
    assert not readers & {
        'ROIAlign', 'NonMaxSuppression', 'TopK', 'Sigmoid', 'Softmax', 'Exp',
        'Multiply', 'Clamp', 'GatherND', 'Transpose',
    }  # fmt: skip


def test_what_may_be_lost(capsys):
    int8.check_accuracy({'a/mAP': 0.607}, {'a/mAP': 0.601})
    assert '| a/mAP | 0.607   | 0.601 | 0.006 |' in capsys.readouterr().out
    with pytest.raises(UserError, match=r'b/mAP 0.007 \(0.607 to 0.600\)'):
        int8.check_accuracy(
            {'a/mAP': 0.5, 'b/mAP': 0.607}, {'a/mAP': 0.6, 'b/mAP': 0.6}
        )
    with pytest.raises(UserError):
        int8.check_accuracy({'a/mAP': 0.5}, {'a/mAP': float('nan')})


@pytest.fixture
def shapes_cfg(shapes_root, monkeypatch):
    register_all_modules()
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = load_config('mobilevig_ti_fpn_shapes')
    cfg.val_dataloader.num_workers = 0
    cfg.val_dataloader.persistent_workers = False
    return cfg


class Oracle:
    """Detects what is annotated, image by image."""

    inputs, outputs = ('image', 'size'), ('boxes', 'labels', 'scores')
    metadata = dict(part='detector', int8=True, mean=MEAN, std=STD, masks=None)
    metadata['classes'] = ['circle', 'square', 'triangle']

    def __init__(self, root):
        path = root / 'annotations' / 'instances_val.json'
        self.truth = json.loads(path.read_text())
        self.images = iter(sorted(image['id'] for image in self.truth['images']))

    def __call__(self, image, size):
        index = next(self.images)
        there = [x for x in self.truth['annotations'] if x['image_id'] == index]
        boxes = np.array([x['bbox'] for x in there], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        ids = [x['id'] for x in self.truth['categories']]
        labels = np.array([ids.index(x['category_id']) for x in there], np.int64)
        scale = size[::-1].tolist() * 2 / np.float32(64)
        return dict(boxes=boxes * scale, labels=labels, scores=np.ones(len(there)))


@pytest.mark.parametrize('number', [2, 500])
def test_ap_of_the_images_that_are_looked_at(
    number, shapes_cfg, shapes_root, monkeypatch
):
    oracle = Oracle(shapes_root)
    monkeypatch.setattr(exported_detector, 'load', lambda path, threads: oracle)
    shapes_cfg.val_evaluator.metric = 'bbox'
    found = int8.evaluate('a.onnx', shapes_cfg, number)
    assert found == {'coco/bbox_mAP': 1.0}
    assert len(list(oracle.images)) == max(4 - number, 0)


def test_calibrated_on_training_images(shapes_cfg, shapes_root, monkeypatch):
    inputs = int8.CalibrationInputs(shapes_cfg, build(shapes_cfg), 3)
    assert len(list(inputs)) == len(list(inputs)) == 3  # again and again
    names = sorted((shapes_root / 'train').iterdir())
    for given, name in zip(inputs, (names[0], names[3], names[7])):
        image = cv2.resize(cv2.imread(str(name))[..., ::-1], (128, 128))
        want = ((image - np.array(MEAN)) / STD).transpose(2, 0, 1)
        assert np.allclose(given['image'][0], want, atol=1e-4)
        assert given['size'].tolist() == [128, 128]
    numbers = iter([1, 0, 2, 0, 0])
    session = lambda **arrays: dict(boxes=np.zeros((next(numbers), 4)))  # noqa: E731
    monkeypatch.setattr(int8, 'load', lambda path: session)
    inputs.drop_images_without_detections('a.onnx')
    assert len(inputs) == 2
    with pytest.raises(UserError, match='detects nothing in 2 images'):
        inputs.drop_images_without_detections('a.onnx')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes_root):
    """config.py and epoch_1.pth of a tiny Faster R-CNN, whose data is there."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = config('Faster R-CNN')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(shapes_root)
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    path = str(shapes_root / 'annotations' / 'instances_val.json')
    cfg.val_evaluator.update(ann_file=path, metric='bbox')
    cfg.dump(folder / 'config.py')
    meta = dict(dataset_meta=dict(classes=('circle', 'square', 'triangle')))
    torch.save(
        dict(state_dict=build(cfg).state_dict(), meta=meta), folder / 'epoch_1.pth'
    )
    return folder


def export(folder, *flags):
    return run('export', folder / 'config.py', folder / 'epoch_1.pth', '--int8', *flags)


def test_the_command(trained, traced_once, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export(trained, '--format', 'onnx') == 0
    (path,) = (tmp_path / 'work_dirs' / 'export').iterdir()
    assert path.name == 'config_int8.onnx'
    out = capsys.readouterr().out
    assert '| 64 x 320 ' in out and '| coco/bbox_mAP | ' in out
    assert load(path).metadata['int8'] is True
    ops = {node.op_type for node in onnx.load(path).graph.node}
    assert 'QuantizeLinear' in ops


@pytest.mark.parametrize('ap,kept', [(0.49, False), (0.495, True)])
def test_only_a_file_that_lost_little_is_kept(
    ap, kept, trained, files, tmp_path, monkeypatch
):
    def copy(source, target):
        for suffix in ('.xml', '.bin'):
            shutil.copy(source.with_suffix(suffix), target.with_suffix(suffix))

    source, made = files['.xml']
    export_room = mobilevig_det.export
    monkeypatch.setattr(export_room, 'write', lambda *args: copy(source, args[3]))
    monkeypatch.setattr(export_room, 'verify', lambda *args: None)
    monkeypatch.setitem(int8.QUANTIZERS, '.xml', lambda *args: copy(made, args[1]))
    aps = iter([{'coco/bbox_mAP': 0.5}, {'coco/bbox_mAP': ap}])
    monkeypatch.setattr(int8, 'evaluate', lambda *args: next(aps))
    out = tmp_path / 'm.xml'
    out.write_text('before')
    message = export(trained, '--format', 'openvino', '--out', out)
    names = sorted(path.name for path in tmp_path.iterdir())
    if kept:
        assert message == 0 and names == ['m.bin', 'm.xml']
        assert load(out).metadata['int8'] is True
    else:
        assert 'coco/bbox_mAP 0.010 (0.500 to 0.490)' in str(message)
        assert names == ['m.xml'] and out.read_text() == 'before'


@pytest.mark.parametrize(
    'flags,words',
    [
        (['--format', 'coreml'], '--int8 is for --format onnx or openvino'),
        (['--format', 'onnx', '--part', 'backbone'], '--part detector'),
        (
            ['--cfg-options', 'train_dataloader.dataset.data_root=none'],
            'The train data is not there',
        ),
        (['--cfg-options', 'val_evaluator=None'], 'the config has no val_evaluator'),
    ],
)
def test_bad_flags(trained, flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in str(export(trained, '--format', 'onnx', *flags))
    assert not list(tmp_path.rglob('*.*'))


def test_missing_package(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'nncf', None)
    message = export(trained, '--format', 'openvino')
    assert 'needs the package nncf' in str(message)
    assert not list(tmp_path.rglob('*.*'))


# In a process of its own, for NNCF reports nothing where pytest is.
SILENT = """
import sys
from pathlib import Path
from openvino_telemetry.utils.sender import TelemetrySender
sent = []
TelemetrySender.send = lambda self, backend, message: sent.append(message)
from mobilevig_det.export.int8 import quantize_openvino
from mobilevig_det.export.openvino import write_openvino
import numpy, onnx
from onnx import helper
weight = numpy.ones((4, 3, 3, 3), numpy.float32)
graph = helper.make_graph(
    [helper.make_node('Conv', ['image', 'weight'], ['map0'], 'layer/conv')], 'g',
    [helper.make_tensor_value_info('image', 1, [1, 3, 32, 32])],
    [helper.make_tensor_value_info('map0', 1, [1, 4, 30, 30])],
    [onnx.numpy_helper.from_array(weight, 'weight')],
)
opset = [helper.make_opsetid('', 20)]
model = helper.make_model(graph, opset_imports=opset, ir_version=10)
folder = Path(sys.argv[1])
onnx.save(model, folder / 'm.onnx')
write_openvino(folder / 'm.onnx', folder / 'm.xml', {})
images = [dict(image=numpy.random.rand(1, 3, 32, 32).astype('float32'))] * 2
quantize_openvino(folder / 'm.xml', folder / 'int8.xml', {}, images)
# Nor do its models spoil the stack of Python's signals.
import faulthandler, gc, signal
faulthandler.enable()
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: None)
signal.raise_signal(signal.SIGTERM)
sys.exit(f'reported: {sent}' if sent else 0)
"""


def test_nothing_reports_its_use(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ('CI', 'NNCF_CI')}
    done = subprocess.run(
        [sys.executable, '-c', SILENT, tmp_path],
        capture_output=True,
        text=True,
        env=environment | {'HOME': str(tmp_path)},  # where nobody has refused
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'int8.xml').is_file()
