"""The data check loads what the config's own loaders and file backends load."""

import io
import os
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from mobilevig_det.datasets.data_check import check_before_training, check_data
from mobilevig_det.datasets.data_paths import check_data_paths
from mobilevig_det.errors import UserError

import numpy as np
import pytest
import tiny_coco
from bad_images import picture
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.fileio import BaseStorageBackend, register_backend
from tiny_coco import load_and_evaluate


class LoadArray(BaseTransform):
    """Load an image from an array in a file."""

    def transform(self, results):
        image = np.load(results['img_path'])
        return dict(
            results, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]
        )


class ZipBackend(BaseStorageBackend):
    """Read members of an archive."""

    def __init__(self, archive):
        self.archive = archive

    def get(self, filepath):
        with zipfile.ZipFile(self.archive) as archive:
            return archive.read(filepath)

    def get_text(self, filepath, encoding='utf-8'):
        return self.get(filepath).decode(encoding)


@pytest.fixture(autouse=True)
def registered():
    register_backend('test_zip', ZipBackend, force=True)
    TRANSFORMS.register_module(module=LoadArray, force=True)


def without_files(root):
    """Delete the images, and return their array."""
    for split in 'train', 'val':
        for path in (root / split).iterdir():
            path.unlink()
    return np.asarray(picture(tiny_coco.WIDTH, tiny_coco.HEIGHT))[..., :3]


def assert_trains(cfg, skipped=0):
    check_data_paths(cfg, ['train', 'val'])
    for decode in True, False:
        report = check_data(cfg, decode=decode, progress=False)
        assert report.findings == []
        assert len(report.skipped) == skipped
    check_before_training(cfg)
    for split in 'train', 'val':
        load_and_evaluate(cfg, split)


def test_a_transform_of_ones_own(root):
    array = without_files(root)
    data = tiny_coco.content()
    for image in data['images']:
        image['file_name'] = image['file_name'].replace('jpg', 'npy')
    cfg = tiny_coco.config(root)
    for split in 'train', 'val':
        tiny_coco.write(root, split, data)
        for i in range(1, 5):
            np.save(root / split / f'{i}.npy', array)
        cfg[f'{split}_dataloader'].dataset.pipeline[0] = dict(type='LoadArray')
    assert_trains(cfg)
    (root / 'train' / '2.npy').write_bytes(b'')
    with pytest.raises(UserError, match='image 20: image that the pipeline cannot'):
        check_before_training(cfg)
    os.unlink(root / 'train' / '2.npy')
    os.mkfifo(root / 'train' / '2.npy')  # nobody writes into it
    with pytest.raises(UserError, match='image 20: .*not a regular file'):
        check_before_training(cfg)


def test_images_in_an_archive(root):
    array = without_files(root)
    buffer = io.BytesIO()
    picture(tiny_coco.WIDTH, tiny_coco.HEIGHT).save(buffer, 'JPEG')
    assert array.shape[:2] == (tiny_coco.HEIGHT, tiny_coco.WIDTH)
    with zipfile.ZipFile(root / 'images.zip', 'w') as archive:
        for i in range(1, 5):
            archive.writestr(f'inside/{i}.jpg', buffer.getvalue())
    cfg = tiny_coco.config(root)
    for split in 'train', 'val':
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(ann_file=str(root / dataset.ann_file), data_root='')
        dataset.data_prefix.img = 'inside/'
        dataset.pipeline[0].backend_args = dict(
            backend='test_zip', archive=str(root / 'images.zip')
        )
    assert_trains(cfg)
    cfg.train_dataloader.dataset.data_prefix.img = 'elsewhere/'
    with pytest.raises(UserError, match="no item named 'elsewhere/1.jpg'"):
        check_before_training(cfg)


def test_annotations_and_images_at_an_address(root):
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cfg = tiny_coco.config(root)
        address = f'http://127.0.0.1:{server.server_port}/'
        for split in 'train', 'val':
            cfg[f'{split}_dataloader'].dataset.update(
                data_root='',
                ann_file=f'{address}{split}.json',
                data_prefix=dict(img=f'{address}{split}/'),
            )
        cfg.val_evaluator.ann_file = f'{address}val.json'
        assert_trains(cfg)
        (root / 'train' / '2.jpg').write_bytes(b'')
        with pytest.raises(UserError, match='image 20: image that the pipeline cannot'):
            check_before_training(cfg)
        cfg.train_dataloader.dataset.ann_file = f'{address}missing.json'
        with pytest.raises(UserError, match='missing.json: cannot be read: HTTPError'):
            check_before_training(cfg)
        server.shutdown()


def test_a_loader_that_takes_another_image_instead(root):
    """MMDetection trains with ``ignore_empty``, whatever is missing."""
    (root / 'train' / '2.jpg').unlink()
    cfg = tiny_coco.config(root)
    cfg.train_dataloader.dataset.pipeline[0].ignore_empty = True
    (finding,) = check_data(cfg, ['train'], progress=False).findings
    assert not finding.stops
    check_before_training(cfg)


def test_backslashes_in_names(root):
    data = tiny_coco.content()
    data['images'][0]['file_name'] = 'a\\1.jpg'
    tiny_coco.write(root, 'train', data)
    cfg = tiny_coco.config(root)
    with pytest.raises(UserError, match=r'a\\1.jpg: there is no such file: write "/"'):
        check_before_training(cfg)
    (root / 'train' / '1.jpg').rename(root / 'train' / 'a\\1.jpg')  # such files exist
    check_before_training(cfg)


def test_only_a_sample_of_addresses_is_loaded(root, monkeypatch):
    monkeypatch.setattr('mobilevig_det.datasets.data_check.files.SOME', 2)
    cfg = tiny_coco.config(root)
    cfg.train_dataloader.dataset.pipeline[0].imdecode_backend = 'pillow'
    report = check_data(cfg, ['train'], decode=False, progress=False)
    assert report.findings == []
    assert '2 of 3 images were loaded, through the pipeline' in report.skipped[0]
    assert check_data(cfg, ['train'], progress=False).skipped == []


def test_what_cannot_be_built_is_named_and_trains(root):
    cfg = tiny_coco.config(root)
    cfg.train_dataloader.dataset.unknown = 'no such argument'
    report = check_data(cfg, ['train'], progress=False)
    assert report.findings == [] and 'is not checked' in report.skipped[0]
    check_before_training(cfg)


def test_a_failure_of_the_check_does_not_stop_training(root, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr('mobilevig_det.datasets.data_check.check_data', fail)
    check_before_training(tiny_coco.config(root))
