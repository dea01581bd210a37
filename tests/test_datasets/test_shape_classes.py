"""The ten generated classes, and folders of images."""

from mobilevig_det.datasets.image_folder import ImageFolder
from mobilevig_det.datasets.shape_classes import (
    CLASSES,
    make_shape_classes,
    paint_class,
)
from mobilevig_det.datasets.shapes import Shape
from mobilevig_det.errors import UserError

import numpy as np
import pytest


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shape_classes(tmp_path_factory.mktemp('classes') / 'set', 20, 10, 32)


def contents(root):
    return {
        path.relative_to(root): path.read_bytes() for path in sorted(root.glob('*/*/*'))
    }


def test_as_many_of_each(root):
    for split, number in (('train', 2), ('val', 1)):
        for name in CLASSES:
            assert len(list((root / split / name).glob('*.png'))) == number
    assert len(CLASSES) == 10 and list(CLASSES) == sorted(CLASSES)


def test_seeded(root, tmp_path):
    again = make_shape_classes(tmp_path / 'a', 20, 10, 32)
    other = make_shape_classes(tmp_path / 'b', 20, 10, 32, seed=1)
    assert contents(again) == contents(root)
    assert not set(contents(other).values()) & set(contents(root).values())


def test_there_already(root, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    make_shape_classes(root, 20, 10, 32)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert capsys.readouterr().out.count('there already') == 2


def test_something_else_is_there(root, tmp_path):
    with pytest.raises(UserError, match='of other settings'):
        make_shape_classes(root, 30, 10, 32)
    (tmp_path / 'train').mkdir()
    with pytest.raises(UserError, match='not ours'):
        make_shape_classes(tmp_path, 20, 10, 32)
    with pytest.raises(UserError, match='size must be at least 32'):
        make_shape_classes(tmp_path / 'new', size=8)


def test_class_is_not_in_the_colour():
    """Of the same draws, classes differ in the shape's pixels alone."""
    images = {k: paint_class(np.random.default_rng(5), k, 64) for k in CLASSES}
    corner = [tuple(image[0, 0]) for image in images.values()]
    assert len(set(corner)) == 1
    means = {k: image.mean() for k, image in images.items()}
    assert max(means.values()) - min(means.values()) < 40


@pytest.mark.parametrize(
    'kind, area',
    [
        ('bar', 4 * 0.95 * 0.28),
        ('ellipse', np.pi / 2),
        ('half', np.pi / 2),
        ('circle', np.pi),
    ],
)
@pytest.mark.parametrize('angle', [0.0, 0.7])
def test_areas(kind, area, angle):
    steps = np.arange(400) + 0.5
    mask = Shape(kind, 200, 200, 150, angle).covers(steps[None], steps[:, None])
    assert mask.sum() == pytest.approx(area * 150**2, rel=0.01)


def folder(root, **kwargs):
    return ImageFolder(data_root=str(root), data_prefix=dict(img='train/'), **kwargs)


def test_folder_is_in_order(root):
    dataset = folder(root)
    assert dataset.metainfo['classes'] == CLASSES
    assert [info['gt_label'] for info in dataset] == [i // 2 for i in range(20)]
    assert f'{CLASSES[3]}/' in dataset[6]['img_path']


def test_bad_folders(root, tmp_path):
    with pytest.raises(UserError, match='has 10 folders.*config is for 7'):
        folder(root, num_classes=7)
    with pytest.raises(UserError, match='no image folder'):
        folder(tmp_path / 'none')
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'a.jpg').touch()
    with pytest.raises(UserError, match='has no folders'):
        folder(tmp_path)
    (tmp_path / 'train' / 'cat').mkdir()
    (tmp_path / 'train' / 'cat' / 'readme.txt').touch()
    with pytest.raises(UserError, match='cat has no images'):
        folder(tmp_path)
