"""Metadata and outputs of anybody's exported file: used as they are, or one message."""

import json

import mobilevig_det.export
from mobilevig_det.errors import UserError
from mobilevig_det.export.exported_detector import ExportedDetector
from mobilevig_det.export.metadata import parse_metadata
from mobilevig_det.export.openvino import write_openvino

import numpy as np
import onnx
import pytest
import tool
import torch
from exported import METADATA as GOOD
from mmdet.structures import DetDataSample
from onnx import TensorProto, helper

BOX = dict(kind='box', threshold=0.5)
IMAGE = dict(kind='image', threshold=0.5, stride=8)
# Other values that are used, among them those of older files.
USED = {
    'masks in boxes': dict(masks=BOX | dict(threshold=1)),
    'masks of the image': dict(masks=IMAGE),
    'order of factors': dict(masks=IMAGE | dict(swapped=False)),
    'no resizing': dict(resize=None, pad=None, palette=None),
    'more keys': dict(score_thr=0.05, versions={'torch': None}, other=[[{}]]),
    'no classes': dict(classes=[]),
}
REFUSED = {
    'format of a later version': dict(format=2),
    'format that is text': dict(format='1'),
    'format that is true': dict(format=True),
    'part of another name': dict(part='head'),
    'part that is a list': dict(part=['detector']),
    'classes that are text': dict(classes='cat'),
    'class that is a number': dict(classes=['cat', 7]),
    'class that is null': dict(classes=[None]),
    'class that can not be encoded': dict(classes=['a\ud800', 'b']),
    'two means': dict(mean=[1, 2]),
    'means by name': dict(mean=dict(r=1, g=2, b=3)),
    'mean that is text': dict(mean=['1', '2', '3']),
    'mean that is no number': dict(mean=[0, float('nan'), 0]),
    'mean that is infinite': dict(mean=[0, 0, float('inf')]),
    'huge mean': dict(mean=[10**400, 0, 0]),
    'std of zero': dict(std=[1, 1, 0]),
    'std below zero': dict(std=[1, -1, 1]),
    'flag that is a number': dict(bgr_to_rgb=1),
    'divisor of zero': dict(pad_size_divisor=0),
    'divisor below zero': dict(pad_size_divisor=-32),
    'divisor that is a fraction': dict(pad_size_divisor=32.5),
    'huge divisor': dict(pad_size_divisor=10**9),
    'pad value that is a list': dict(pad_value=[0, 0, 0]),
    'huge scale': dict(resize=dict(scale=[10**6, 10**6], keep_ratio=True)),
    'scale of zero': dict(resize=dict(scale=[0, 48], keep_ratio=False)),
    'scale of one side': dict(resize=dict(scale=[48], keep_ratio=False)),
    'scale alone': dict(resize=dict(scale=[64, 48])),
    'resize that is a list': dict(resize=[64, 48]),
    'pad of a fraction': dict(pad=dict(size=[1.5, 64], value=[0, 0, 0])),
    'huge pad': dict(pad=dict(size=[64, 2**40], value=[0, 0, 0])),
    'pad of one value': dict(pad=dict(size=[64, 64], value=0)),
    'masks of another kind': dict(masks=BOX | dict(kind='polygon')),
    'masks without a threshold': dict(masks=dict(kind='box')),
    'masks without a stride': dict(masks=dict(kind='image', threshold=0.5)),
    'stride of zero': dict(masks=IMAGE | dict(stride=0)),
    'threshold without a logit': dict(masks=IMAGE | dict(threshold=1)),
    'threshold above one': dict(masks=BOX | dict(threshold=1.5)),
    'order that is text': dict(masks=IMAGE | dict(swapped='no')),
    'too few colours': dict(palette=[[0, 0, 0]]),
    'colour of two': dict(palette=[[0, 0], [0, 0]]),
    'colour above 255': dict(palette=[[0, 0, 256], [0, 0, 0]]),
}
# Texts that are no object, or more than one can be read from.
TEXTS = {
    'none': '',
    'cut off': json.dumps(GOOD)[:-2],
    'a list': '[]',
    'null': 'null',
    'a number': '1e999',
    'an empty object': '{}',
    'lists in lists': '[' * 100_000,
    'objects in objects': '{"classes":' * 50_000,
    'a number of many digits': '{"format": 1' + '0' * 10_000 + '}',
    'more than a megabyte': json.dumps(GOOD | dict(other='x' * 2**20)),
}
REQUIRED = [key for key in GOOD if key not in ('palette', 'resize', 'pad')]


def texts():
    """All texts that both readers must refuse, by what is wrong with them."""
    yield from TEXTS.items()
    for name, change in REFUSED.items():
        yield name, json.dumps(GOOD | change)
    for key in REQUIRED:
        yield f'no {key}', json.dumps({k: GOOD[k] for k in GOOD if k != key})


@pytest.fixture(scope='module')
def runner():
    """The program that is one file, which checks metadata by itself."""
    return tool.load('run_onnx')


@pytest.mark.parametrize('name,text', texts(), ids=lambda x: x[:40])
def test_both_readers_refuse(name, text, runner):
    for read, error in (
        (parse_metadata, UserError),
        (runner.parse_metadata, runner.Unusable),
    ):
        with pytest.raises(error) as caught:
            read(text, 'their.onnx')
        message = str(caught.value)
        assert 'their.onnx' in message and len(message) < 400
        assert '\n' not in message


@pytest.mark.parametrize('change', USED.values(), ids=USED)
def test_both_readers_accept(change, runner):
    metadata = GOOD | change
    for read in parse_metadata, runner.parse_metadata:
        assert read(json.dumps(metadata), 'their.onnx') == metadata


def test_the_key_and_the_expectation_are_named():
    text = json.dumps(GOOD | dict(pad_size_divisor=0))
    with pytest.raises(UserError, match='pad_size_divisor is 0, not what docs'):
        parse_metadata(text, 'their.onnx')
    text = json.dumps(GOOD | dict(format=2))
    with pytest.raises(UserError, match='format is 2.* reads format 1'):
        parse_metadata(text, 'their.onnx')


def write(path, metadata, label=0, box=(1, 2, 30, 40), score=0.9, boxes='boxes'):
    """Write a detector that always finds one box; metadata is a dict or the text."""
    found = {
        boxes: ([1, 4], TensorProto.FLOAT, box),
        'labels': ([1], TensorProto.INT64, [label]),
        'scores': ([1], TensorProto.FLOAT, [score]),
    }
    nodes = [
        helper.make_node(
            'Constant', [], [name], value=helper.make_tensor(name, kind, shape, values)
        )
        for name, (shape, kind, values) in found.items()
    ]
    image = helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, 'h', 'w'])
    size = helper.make_tensor_value_info('size', TensorProto.INT64, [2])
    outputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, (shape, kind, _) in found.items()
    ]
    graph = helper.make_graph(nodes, 'g', [image, size], outputs)
    opsets = [helper.make_opsetid('', 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    helper.set_model_props(model, {'mobilevig_det': text})
    onnx.save(model, path)
    return path


SOME = {
    'deep': '[' * 100_000,
    'no mean': {key: GOOD[key] for key in GOOD if key != 'mean'},
    'huge': GOOD | dict(resize=dict(scale=[10**6] * 2, keep_ratio=True)),
}


@pytest.mark.parametrize('metadata', SOME.values(), ids=SOME)
@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.json'])
def test_every_format_is_checked(metadata, suffix, tmp_path, runner):
    """ONNX, OpenVINO and, as far as it gets, the file next to an ExecuTorch program."""
    path = write(tmp_path / 'm.onnx', metadata)
    if suffix == '.json':
        pytest.importorskip('executorch', reason='pip install "mobilevig_det[export]"')
        text = onnx.load(path).metadata_props[0].value
        (tmp_path / 'm.json').write_text(text)
        path = tmp_path / 'm.pte'
        path.write_bytes(b'')
    elif suffix == '.xml':
        path = tmp_path / 'm.xml'
        write_openvino(tmp_path / 'm.onnx', path, {})
        text = path.read_text()
        value = metadata if isinstance(metadata, str) else json.dumps(metadata)
        assert text.count('value="{}"') == 1
        value = value.replace('"', '&quot;')
        path.write_text(text.replace('value="{}"', f'value="{value}"'))
    with pytest.raises(UserError, match='The metadata of .* cannot be used'):
        mobilevig_det.export.load(path)
    if suffix != '.json':
        with pytest.raises(runner.Unusable, match='etadata'):
            runner.load(str(path))


def test_openvino_metadata_that_is_no_text(tmp_path, runner):
    path = tmp_path / 'm.xml'
    write_openvino(write(tmp_path / 'm.onnx', GOOD), path, {})
    text = path.read_text()
    for nested in ('<mobilevig_det><part value="detector"/></mobilevig_det>', ''):
        path.write_text(text.replace('<mobilevig_det value="{}" />', nested))
        with pytest.raises(UserError):
            mobilevig_det.export.load(path)
        with pytest.raises(runner.Unusable):
            runner.load(str(path))


OUTPUTS = {
    'a label without a class': dict(label=2),
    'a label below zero': dict(label=-1),
    'a box of NaN': dict(box=(float('nan'),) * 4),
    'an infinite box': dict(box=(0, 0, float('inf'), 9)),
    'a huge box': dict(box=(0, 0, 1e30, 1e30)),
    'a score of NaN': dict(score=float('nan')),
}


@pytest.mark.parametrize('change', OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_that_are_no_detections(change, tmp_path, runner):
    path = str(write(tmp_path / 'm.onnx', GOOD, **change))
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(runner.Unusable, match='not valid detections'):
        runner.Detector(path)(image)
    sample = DetDataSample(metainfo=dict(img_shape=(48, 64), scale_factor=(1.0, 1.0)))
    inputs = np.zeros((1, 3, 64, 64), np.float32)
    with pytest.raises(UserError, match='not valid detections'):
        ExportedDetector(path)(torch.from_numpy(inputs), [sample], mode='predict')


def test_detections_of_a_good_file(tmp_path, runner):
    path = str(write(tmp_path / 'm.onnx', GOOD))
    found = runner.Detector(path)(np.zeros((48, 64, 3), np.uint8))
    assert found['labels'].tolist() == [0]
    sample = DetDataSample(metainfo=dict(img_shape=(48, 64), scale_factor=(1.0, 1.0)))
    inputs = torch.from_numpy(np.zeros((1, 3, 64, 64), np.float32))
    (sample,) = ExportedDetector(path)(inputs, [sample], mode='predict')
    assert sample.pred_instances.bboxes.tolist() == [[1, 2, 30, 40]]


def test_outputs_of_other_names(tmp_path, runner):
    path = str(write(tmp_path / 'm.onnx', GOOD, boxes='rectangles'))
    with pytest.raises(UserError, match='differ in boxes'):
        ExportedDetector(path)
    with pytest.raises(runner.Unusable, match='not valid detections'):
        runner.Detector(path)(np.zeros((48, 64, 3), np.uint8))
