"""The Python API against MMDetection's own functions."""

import functools
import http.server
import os
import shutil
import sys
import threading
import types

import mobilevig_det
from mobilevig_det import Classifier, Detector
from mobilevig_det.checkpoints import weights
from mobilevig_det.config import load_config
from mobilevig_det.datasets import ImageFileError
from mobilevig_det.errors import UserError

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_detector
import torch
from bad_images import photo
from mmdet.apis import DetInferencer, inference_detector, init_detector
from PIL import Image

SIZES = [(160, 120), (120, 160), (157, 120), (160, 120), (60, 200), (160, 117)]
PHOTOS = [photo(*size, i) for i, size in enumerate(SIZES)]


@pytest.fixture(scope='module')
def detector(model_dir):
    return Detector(model_dir, device='cpu', score_thr=0.4)


@pytest.fixture(scope='module')
def expected(model_dir):
    """MMDetection's instances of each photo."""
    model = init_detector(
        str(model_dir / 'config.py'), str(model_dir / 'epoch_1.pth'), device='cpu'
    )
    found = [inference_detector(model, image).pred_instances for image in PHOTOS]
    return [one[one.scores >= 0.4].cpu() for one in found]


def assert_equal(result, other):
    """Two results, to rounding."""
    assert (result.height, result.width) == (other.height, other.width)
    np.testing.assert_allclose(result.boxes, other.boxes, atol=1e-2)
    np.testing.assert_allclose(result.scores, other.scores, atol=1e-4)
    np.testing.assert_array_equal(result.labels, other.labels)
    assert result.masks.shape == other.masks.shape
    assert (result.masks != other.masks).mean() < 1e-3


def test_results_are_those_of_mmdetection(detector, expected):
    for image, instances in zip(PHOTOS, expected):
        result = detector(image)
        assert len(result) == len(instances) > 5
        assert result.boxes.dtype == result.scores.dtype == np.float32
        assert result.labels.dtype == np.int64 and result.masks.dtype == bool
        np.testing.assert_allclose(result.boxes, instances.bboxes, atol=1e-2)
        np.testing.assert_allclose(result.scores, instances.scores, atol=1e-4)
        np.testing.assert_array_equal(result.labels, instances.labels)
        assert (result.masks != instances.masks.numpy()).mean() < 1e-3
        assert result.names == [tiny_detector.CLASSES[i] for i in instances.labels]
        assert (np.diff(result.scores) <= 0).all()


@pytest.mark.parametrize('batch_size', [None, 1, 3])
def test_an_image_gives_the_same_alone_in_a_list_and_in_a_stream(detector, batch_size):
    alone = [detector(image) for image in PHOTOS]
    streamed = list(detector.stream(iter(PHOTOS), batch_size=batch_size))
    for results in detector(PHOTOS), streamed:
        assert len(results) == len(PHOTOS)
        for result, other in zip(results, alone):
            assert_equal(result, other)


def test_paths_arrays_and_pil_images(detector, tmp_path):
    array = PHOTOS[0]
    cv2.imwrite(str(tmp_path / 'a.png'), array)
    pil = Image.fromarray(array[..., ::-1])
    path = tmp_path / 'a.png'
    for image in path, str(path), pil, [path, pil]:
        found = detector(image)
        for result in found if isinstance(found, list) else [found]:
            assert_equal(result, detector(array))
            np.testing.assert_array_equal(result.image, array)


@pytest.mark.parametrize(
    'image, message',
    [
        (np.zeros((4, 4), np.uint8), r'uint8 of shape \(H, W, 3\)'),
        (np.zeros((4, 4, 3)), 'this one is float64'),
        (np.zeros((0, 4, 3), np.uint8), 'has no pixels'),
        (7, 'not int'),
    ],
)
def test_what_is_no_image_is_refused(detector, image, message):
    with pytest.raises(UserError, match=message):
        detector(image)


def test_unusable_files_raise_alone_and_are_results_in_a_stream(detector, tmp_path):
    (tmp_path / 'text.jpg').write_text('text')
    cv2.imwrite(str(tmp_path / 'z.png'), PHOTOS[0])
    with pytest.raises(ImageFileError, match='text.jpg: it is text, not an image'):
        detector(tmp_path / 'text.jpg')
    with pytest.raises(ImageFileError, match='no.jpg: there is no such file'):
        detector(['no.jpg'])
    bad, good = detector.stream(tmp_path)
    assert bad.error == 'it is text, not an image' and len(bad) == 0
    assert "error='it is text" in repr(bad)
    assert good.error is None and len(good) > 5


def test_streams_of_folders_patterns_lists_and_videos(detector, tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'{i}.png'), PHOTOS[0][: 120 - 30 * i])
    (tmp_path / 'list.txt').write_text(f'{tmp_path}/2.png\n{tmp_path}/0.png\n')
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), codec, 10, (96, 64))
    for i in range(4):
        writer.write(photo(96, 64, i))
    writer.release()
    heights = {
        tmp_path / '*.png': [120, 90, 60],
        tmp_path / 'list.txt': [60, 120],
        tmp_path / 'clip.avi': [64] * 4,
        tmp_path: [120, 90, 60, *[64] * 4],
    }
    for source, expected in heights.items():
        results = list(detector.stream(source))
        assert [result.height for result in results] == expected
    assert results[-1].name == f'{tmp_path}/clip.avi#3'
    with pytest.raises(UserError, match='matches no file'):
        list(detector.stream(tmp_path / '*.gif'))


def test_filters(detector, model_dir):
    result = detector(PHOTOS[0])
    best = result.filter(float(np.median(result.scores)))
    assert 0 < len(best) < len(result) and len(best.rles) == len(best.masks)
    np.testing.assert_array_equal(best.boxes, result.boxes[: len(best)])
    np.testing.assert_array_equal(result[1].boxes, result.boxes[1:2])
    np.testing.assert_array_equal(result[result.labels == 1].labels, [])
    only = Detector(model_dir, device='cpu', score_thr=0.4, classes='circle')
    assert_equal(only(PHOTOS[0]), result.filter(classes=['circle']))
    with pytest.raises(UserError, match="no class 'dog'; it has circle"):
        result.filter(classes='dog')
    with pytest.raises(UserError, match="no class 'dog'"):
        Detector(model_dir, device='cpu', classes=['dog'])


def test_other_forms_of_a_result(detector, expected, monkeypatch):
    result = detector(PHOTOS[0])
    sample = result.to_data_sample()
    assert torch.equal(sample.pred_instances.masks, torch.from_numpy(result.masks))
    assert sample.ori_shape == (120, 160)
    annotations = result.to_coco(image_id=7, category_ids=[90, 3, 5])
    assert {a['image_id'] for a in annotations} == {7}
    xywh = np.array([a['bbox'] for a in annotations])
    np.testing.assert_allclose(
        xywh[:, :2] + xywh[:, 2:], result.boxes[:, 2:], atol=1e-3
    )
    for annotation, mask in zip(annotations, result.masks):
        decoded = mask_utils.decode(annotation['segmentation'])
        np.testing.assert_array_equal(decoded, mask)
        assert annotation['area'] == mask.sum()
    module = types.SimpleNamespace(Detections=dict)
    monkeypatch.setitem(sys.modules, 'supervision', module)
    given = result.to_supervision()
    assert given['xyxy'] is result.boxes and given['class_id'] is result.labels
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(UserError, match='pip install supervision'):
        result.to_supervision()
    assert repr(result).startswith("Detections('array 0', 160x120, ")


def test_drawings_are_written(detector, tmp_path):
    image = PHOTOS[0].copy()
    result = detector(image)
    result.save(tmp_path / 'below' / 'out.png', score_thr=0.5)
    drawn = cv2.imread(str(tmp_path / 'below' / 'out.png'))
    assert drawn.shape == image.shape and (drawn != image).any()
    np.testing.assert_array_equal(image, PHOTOS[0])
    with pytest.raises(UserError, match='cannot write images with the suffix .*xyz'):
        result.save(tmp_path / 'out.xyz')


def test_all_ways_to_name_a_model(model_dir, detector, tmp_path):
    config, checkpoint = model_dir / 'config.py', model_dir / 'epoch_1.pth'
    for model in (model_dir,), (checkpoint,), (config, checkpoint):
        found = Detector(*model, device='cpu', score_thr=0.4)
        assert_equal(found(PHOTOS[0]), detector(PHOTOS[0]))
    for model, message in (
        (('coco-x',), 'There is no config'),
        (('mobilevig_m_fpn_1x',), 'needs the checkpoint'),
        ((tmp_path,), 'no best_'),
        ((tmp_path / 'no.pth',), 'There is no checkpoint file'),
        ((tmp_path / 'no.onnx',), 'no checkpoint file'),
        ((config, tmp_path / 'no.pth'), 'There is no checkpoint file'),
    ):
        with pytest.raises(UserError, match=message):
            Detector(*model, device='cpu')


def test_fused_and_not(model_dir, detector):
    plain = Detector(model_dir, device='cpu', score_thr=0.4, fuse=False)
    assert detector.model.backbone.fused and not plain.model.backbone.fused
    assert_equal(plain(PHOTOS[0]), detector(PHOTOS[0]))


def test_threads_share_a_detector(detector):
    expected = [detector(image) for image in PHOTOS]
    found = {}

    def detect(number):
        found[number] = [detector(image) for image in PHOTOS]

    threads = [threading.Thread(target=detect, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    streamed = list(detector.stream(PHOTOS))
    for thread in threads:
        thread.join()
    for results in (streamed, *found.values()):
        for result, other in zip(results, expected, strict=True):
            assert_equal(result, other)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_process_is_told_what_to_do(detector):
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            detector(PHOTOS[0])
        except UserError as error:
            os.write(far, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(far)
    message = os.read(near, 1000).decode()
    os.close(near)
    assert f'built in process {os.getpid()}' in message and 'spawn' in message


@pytest.fixture
def published(tmp_path, monkeypatch, model_dir):
    """A server with a file of the published layout; its address and its folder."""
    folder = tmp_path / 'server'
    (folder / 'Detection').mkdir(parents=True)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    file = weights.PUBLISHED['coco-m'].path
    cfg = load_config('mobilevig_m_fpn_1x')
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(CLASSES=('a',) * 80)),
        folder / file,
    )
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(folder)
    )
    monkeypatch.setattr(
        http.server.SimpleHTTPRequestHandler, 'log_message', lambda *args: None
    )
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f'http://127.0.0.1:{server.server_port}/'
        monkeypatch.setattr(weights, 'REPOSITORY', address)
        yield folder / file
        server.shutdown()
        thread.join()


def weight_of(model):
    return model.state_dict()['roi_head.bbox_head.fc_cls.weight']


def test_published_weights_by_name(published, tmp_path, monkeypatch):
    """Downloaded once, and then from the cache; or from the folder of the variable."""
    expected = weight_of_file(published)
    assert torch.equal(weight_of(Detector('coco-m', device='cpu').model), expected)
    cached = list((tmp_path / 'torch').rglob('*.pth'))
    assert [path.name for path in cached] == [published.name]
    own = tmp_path / 'own'
    own.mkdir()
    shutil.move(published, own / published.name)
    again = Detector('mobilevig://coco-m', device='cpu')
    assert torch.equal(weight_of(again.model), expected)
    cached[0].unlink()
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(own))
    found = Detector('mobilevig_m_fpn_1x', 'mobilevig://coco-m', 'cpu')
    assert torch.equal(weight_of(found.model), expected)


def weight_of_file(path):
    return torch.load(path)['state_dict']['roi_head.bbox_head.fc_cls.weight']


def test_offline_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    monkeypatch.setattr(weights, 'REPOSITORY', 'http://127.0.0.1:9/')
    file = weights.PUBLISHED['coco-m'].path
    with pytest.raises(UserError) as error:
        Detector('coco-m')
    message = str(error.value)
    assert f'http://127.0.0.1:9/{file}' in message
    assert os.path.join(str(tmp_path), 'hub') in message and 'save' in message


def test_mmdetections_own_functions_take_our_names(published):
    """``scope='mobilevig_det'`` looks models up in our model index."""
    expected = weight_of_file(published)
    config = load_config('mobilevig_m_fpn_1x')
    config.test_dataloader.dataset.pipeline[1].scale = (64, 64)
    model = init_detector(config, 'mobilevig://coco-m', device='cpu', palette='random')
    assert torch.equal(weight_of(model), expected)
    assert 'pred_instances' in inference_detector(model, photo(64, 48))
    for weights_given in 'mobilevig://coco-m', str(published):
        inferencer = DetInferencer(
            'mobilevig_m_fpn_1x', weights_given, device='cpu', scope='mobilevig_det'
        )
        assert torch.equal(weight_of(inferencer.model), expected)


def test_a_classifier_is_no_detector(published):
    with pytest.raises(UserError, match='is a detector: use Detector'):
        Classifier('coco-m', device='cpu')


def test_the_package_imports_the_api_when_it_is_used():
    assert {'Classifier', 'Detector'} <= set(mobilevig_det.__all__)
    with pytest.raises(AttributeError, match='no attribute'):
        getattr(mobilevig_det, 'nothing')  # noqa: B009
