"""The generated data set against an independent rendering and pycocotools."""

import json
import math

from mobilevig_det.config import load_config
from mobilevig_det.datasets import shapes
from mobilevig_det.datasets.data_paths import check_data_paths
from mobilevig_det.errors import UserError

import cv2
import numpy as np
import pytest
import shapely
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from shapely import affinity

NUM = dict(train=4, val=3)
SIZE = 64
SEED = 5


def make(root, **kwargs):
    return shapes.make_shapes(
        root, **{**dict(num_train=4, num_val=3, size=SIZE, seed=SEED), **kwargs}
    )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp('shapes') / 'set')


def scene_of(split, index):
    rng = np.random.default_rng([SEED, ('train', 'val').index(split), index])
    return shapes.sample_scene(rng, SIZE, index)


def contains(shape, x, y):
    """By geometry: distance to the centre, or a polygon from its corners."""
    if shape.kind == 'circle':
        return np.hypot(x - shape.x, y - shape.y) <= shape.radius
    if shape.kind == 'ring':
        distance = np.hypot(x - shape.x, y - shape.y) / shape.radius
        return (distance >= 0.55) & (distance <= 1)
    if shape.kind == 'cross':
        bars = (
            shapely.box(-long, -short, long, short)
            for long, short in ((0.95, 0.3), (0.3, 0.95))
        )
        cross = affinity.rotate(
            shapely.union_all(list(bars)), shape.angle, (0, 0), True
        )
        return shapely.contains_xy(
            cross, (x - shape.x) / shape.radius, (y - shape.y) / shape.radius
        )
    sides = dict(square=4, triangle=3)[shape.kind]
    angles = [shape.angle + math.pi * (2 * k + 1) / sides for k in range(sides)]
    polygon = shapely.Polygon(
        [
            (shape.x + shape.radius * math.cos(a), shape.y + shape.radius * math.sin(a))
            for a in angles
        ]
    )
    return shapely.contains_xy(polygon, x, y)


def painted_labels(scene):
    """Painter's algorithm: 0 background, -1 crowd, n the n-th object."""
    labels = np.zeros((SIZE, SIZE), int)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    layers = [(-1, shape) for shape in scene.crowd]
    layers += list(enumerate(scene.objects, 1))
    for label, shape in layers:
        labels[contains(shape, columns + 0.5, rows + 0.5)] = label
    return labels


@pytest.mark.parametrize('split', ['train', 'val'])
def test_masks_boxes_and_areas_are_exact(root, split):
    coco = COCO(str(shapes.annotation_file(root, split)))
    assert len(coco.imgs) == NUM[split]
    for index, image in enumerate(coco.loadImgs(coco.getImgIds())):
        scene = scene_of(split, index)
        labels = painted_labels(scene)
        anns = coco.loadAnns(coco.getAnnIds(image['id']))
        kinds = [coco.cats[ann['category_id']]['name'] for ann in anns]
        expected = [shape.kind for shape in scene.objects]
        if (labels == -1).any():
            expected.append(scene.crowd[0].kind)
        assert kinds == expected
        for number, ann in enumerate(anns, 1):
            label = -1 if ann['iscrowd'] else number
            mask = coco.annToMask(ann)
            assert np.array_equal(mask, labels == label)
            rows, columns = np.nonzero(mask)
            assert ann['area'] == len(rows)
            assert ann['bbox'] == [
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            ]
        for number, shape in enumerate(scene.objects, 1):
            full = shape.covers(*shapes._pixel_centres(SIZE)).sum()
            assert (labels == number).sum() >= shapes.MIN_VISIBLE * full


def test_image_shows_what_the_masks_say():
    # In every mask the colour is a linear ramp, but for noise of at most 5.
    # A mask off by a pixel would hold pixels of another ramp.
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for index in range(6):
        scene = scene_of('train', index)
        image = shapes.paint(np.random.default_rng(index), scene, SIZE)
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
        labels = painted_labels(scene)
        for label in [0, *range(1, len(scene.objects) + 1)]:
            where = labels == label
            terms = np.stack([columns[where], rows[where], np.ones(where.sum())], 1)
            for channel in image[where].T.astype(float):
                if channel.min() == 0 or channel.max() == 255:
                    continue  # clipped
                fit = np.linalg.lstsq(terms, channel, rcond=None)[0]
                assert abs(terms @ fit - channel).max() < 9


def test_five_classes(tmp_path):
    root = make(tmp_path / 'five', num_classes=5)
    path = shapes.annotation_file(root, 'train')
    names = [c['name'] for c in json.loads(path.read_text())['categories']]
    assert names == ['circle', 'square', 'triangle', 'ring', 'cross']
    seen = set()
    for index in range(20):
        scene = shapes.sample_scene(np.random.default_rng(index), SIZE, index, 5)
        labels = painted_labels(scene)
        crowd, masks = shapes.visible_masks(scene, SIZE)
        assert np.array_equal(crowd, labels == -1)
        for label, (shape, mask) in enumerate(zip(scene.objects, masks), 1):
            assert np.array_equal(mask, labels == label), shape
            seen.add(shape.kind)
    assert seen == set(names)
    with pytest.raises(UserError, match='num_classes must be at most 5'):
        make(tmp_path / 'six', num_classes=6)
    with pytest.raises(UserError, match='other settings'):
        make(root)  # three classes, where five are


@pytest.mark.parametrize('split', ['train', 'val'])
def test_has_crowd_and_empty_images_and_unique_ids(root, split):
    content = json.loads(shapes.annotation_file(root, split).read_text())
    anns, images = content['annotations'], content['images']
    assert len({ann['id'] for ann in anns}) == len(anns)
    assert 0 not in {ann['id'] for ann in anns}  # pycocotools' "no match"
    assert len({image['id'] for image in images}) == len(images)
    assert [c['name'] for c in content['categories']] == list(shapes.CLASSES)
    # images 2 and 3 of every set
    assert {ann['image_id'] for ann in anns if ann['iscrowd']} == {2}
    assert {i['id'] for i in images} - {a['image_id'] for a in anns} == {3}
    for image in images:
        picture = cv2.imread(str(root / split / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)


def contents(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_same_seed_same_bytes(root, tmp_path):
    first = contents(root)
    assert contents(make(tmp_path / 'again')) == first
    other = contents(make(tmp_path / 'other', seed=SEED + 1))
    assert not {
        path for path in first if path.suffix == '.jpg' and other[path] == first[path]
    }
    larger = contents(make(tmp_path / 'larger', num_train=5))
    assert len(larger) == len(first) + 1
    assert all(larger[p] == first[p] for p in first if p.suffix == '.jpg')
    assert first.keys() == other.keys()
    train, val = (set(first[p] for p in first if p.parts[0] == split) for split in NUM)
    assert not train & val


def test_again_does_only_what_is_missing(root, tmp_path, capsys):
    whole = make(tmp_path / 'set')
    before = contents(whole)
    stamps = {p: (whole / p).stat().st_mtime_ns for p in before}
    capsys.readouterr()
    make(whole)
    assert capsys.readouterr().out.count('there already') == 2
    assert stamps == {p: (whole / p).stat().st_mtime_ns for p in before}

    # stopped in the middle of an image; then an image lost
    shapes.annotation_file(whole, 'train').unlink()
    (whole / 'train' / '000002.jpg').write_bytes(b'\xff\xd8')
    make(whole)
    assert contents(whole) == before
    (whole / 'val' / '000003.jpg').unlink()
    make(whole)
    assert contents(whole) == before


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(size=16), 'size must be at least 32, but is 16'),
        (dict(num_train=0), 'num_train must be at least 1, but is 0'),
        (dict(num_val=-1), 'num_val must be at least 1'),
        (dict(seed=-1), 'seed must be at least 0'),
    ],
)
def test_numbers_out_of_range(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path / 'set', **wrong)
    assert not (tmp_path / 'set').exists()


def test_replaces_nothing_else(root, tmp_path):
    before = contents(root)
    with pytest.raises(UserError, match='of other settings.*another folder'):
        make(root, seed=SEED + 1)
    assert contents(root) == before
    foreign = tmp_path / 'annotations' / 'instances_val.json'
    foreign.parent.mkdir()
    foreign.write_text('{"images": []}')
    with pytest.raises(UserError, match='not a shapes set'):
        make(tmp_path)
    assert foreign.read_text() == '{"images": []}'
    assert not (tmp_path / 'train').exists()
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='Cannot write the data set'):
        make(tmp_path / 'file')


@pytest.mark.parametrize('slash', ['', '/'])
def test_config_reads_it(root, slash, monkeypatch):
    """Through MMDetection's own pipeline, at the size of the images."""
    monkeypatch.setenv('SHAPES_ROOT', f'{root}{slash}')
    cfg = load_config('mobilevig_ti_fpn_shapes')
    check_data_paths(cfg, ['train', 'val', 'test'])
    assert cfg.val_evaluator.ann_file == str(shapes.annotation_file(root, 'val'))
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == shapes.CLASSES
    images = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
    assert images == [1, 2, 4]  # 3 is empty
    coco = COCO(str(shapes.annotation_file(root, 'train')))
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        anns = coco.loadAnns(coco.getAnnIds(sample.img_id))
        assert len(sample.gt_instances) == sum(not ann['iscrowd'] for ann in anns)
        assert len(sample.ignored_instances) == sum(ann['iscrowd'] for ann in anns)
        for ann, label in zip(anns, sample.gt_instances.labels):
            assert ann['category_id'] == label + 1
