"""Odd values in annotation files: MMDetection takes those that the check accepts."""

import copy
import json

from mobilevig_det.datasets.data_check import check_before_training, check_data
from mobilevig_det.errors import UserError
from mobilevig_det.evaluation import FastCocoMetric

import numpy as np
import pytest
import tiny_coco
import torch
from bad_annotations import ann
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS
from tiny_coco import load_and_evaluate

VALUES = [
    *(None, True, False, 0, 1, 2, 7, 10, 20, 90, -1, 0.5, 1.0, 7.0, 10.0, 20.0),
    *('', '0', '1', '10', 'circle', '\ud800', [], {}, [1, 2, 3, 4], [1, '2']),
    *(1e6, 1e300, float('nan'), float('inf'), 10**30, 2**62, 2**63, [[1, 2, 3, 4]]),
    *([[1, 2, 30, 2, 30, 40]], dict(size=[120, 160], counts=[19200])),
]
KEYS = dict(
    images=['id', 'file_name', 'width', 'height'],
    categories=['id', 'name', 'supercategory'],
    annotations=[
        *('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'ignore'),
        'segmentation',
    ],
)
CHANGES = st.one_of(
    st.tuples(
        st.just(records),
        st.one_of(st.integers(0, 4), st.none()),
        st.sampled_from(keys),
        st.sampled_from(VALUES),
    )
    for records, keys in KEYS.items()
)


def predictions(dataset):
    """Boxes and masks of the original objects, shifted, of all classes."""
    for data in (dataset.get_data_info(i) for i in range(len(dataset))):
        boxes = torch.tensor([[9.0, 10, 48, 40], [60, 22, 110, 80], [20, 50, 50, 92]])
        masks = torch.zeros(3, tiny_coco.HEIGHT, tiny_coco.WIDTH, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long()):
            mask[y1:y2, x1:x2] = True
        yield dict(
            img_id=data['img_id'],
            ori_shape=tuple(masks.shape[1:]),
            pred_instances=dict(
                bboxes=boxes,
                scores=torch.tensor([0.9, 0.8, 0.7]),
                labels=torch.tensor([0, 1, 2]),
                masks=masks,
            ),
        )


def evaluate(kind, path, dataset):
    metric = kind(ann_file=str(path), metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, list(predictions(dataset)))
    return metric.evaluate(len(dataset))


@settings(
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example([('annotations', None, 'iscrowd', True)])
@example([('categories', 0, 'id', 3.0)])
@example([('annotations', None, 'image_id', '10')])
@example([('annotations', 1, 'image_id', 10.0), ('annotations', 2, 'ignore', 1)])
@example([('images', 0, 'width', 160.0), ('annotations', 0, 'id', 0)])
@example([('annotations', 2, 'category_id', 8), ('annotations', 2, 'bbox', [1, 2])])
@example([('categories', 0, 'id', '7'), ('annotations', 2, 'category_id', '7')])
@given(st.lists(CHANGES, min_size=1, max_size=2))
def test_accepted_files_give_the_figures_of_coco_metric(root, changes):
    """A change sets a key of one record, or of all."""
    data = tiny_coco.content()
    for records, number, key, value in changes:
        for i, record in enumerate(data[records]):
            if number in (None, i):
                record[key] = copy.deepcopy(value)
    (root / 'val.json').write_text(json.dumps(data))
    cfg = tiny_coco.config(root)
    report = check_data(cfg, ['val'], decode=False, workers=1, progress=False)
    assume(not report.stopping)
    # Serializing collects garbage each time, which takes longer than all the rest.
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, serialize_data=False))
    assert all(dataset[i] is not None for i in range(len(dataset)))
    path = root / 'val.json'
    want = evaluate(CocoMetric, path, dataset)
    np.testing.assert_equal(evaluate(FastCocoMetric, path, dataset), want)


@pytest.mark.parametrize('value', [None, 'missing'])
def test_missing_iscrowd_trains_and_is_not_evaluated(value, root):
    data = tiny_coco.content()
    for annotation in data['annotations']:
        annotation.pop('iscrowd')
        if value is None:
            annotation['iscrowd'] = None
    tiny_coco.write(root, 'train', data)
    tiny_coco.write(root, 'val', data)
    cfg = tiny_coco.config(root)
    report = check_data(cfg, progress=False)
    assert {f.kind for f in report.findings} == {'has no "iscrowd"'}
    assert all(f.stops and f.file.startswith('val') for f in report.findings)
    load_and_evaluate(cfg, 'train')
    with pytest.raises((KeyError, TypeError)):
        load_and_evaluate(cfg, 'val')
    cfg.val_evaluator = None
    assert check_data(cfg, progress=False).findings == []


def test_ids_may_all_be_text_or_whole_floats(root):
    for convert in float, lambda id: f'{id:04}':
        data = tiny_coco.content()
        for image in data['images']:
            image['id'] = convert(image['id'])
        for annotation in data['annotations']:
            annotation['image_id'] = convert(annotation['image_id'])
        tiny_coco.write(root, 'train', data)
        tiny_coco.write(root, 'val', data)
        cfg = tiny_coco.config(root)
        assert check_data(cfg, progress=False).findings == []
        for split in 'train', 'val':
            load_and_evaluate(cfg, split)


def test_text_as_annotation_ids_trains_and_is_not_evaluated(root):
    data = tiny_coco.content()
    for annotation in data['annotations']:
        annotation['id'] = f'object {annotation["id"]}'
    for split in 'train', 'val':
        tiny_coco.write(root, split, data)
    cfg = tiny_coco.config(root)
    findings = check_data(cfg, progress=False).findings
    assert {f.kind for f in findings} == {'annotation id that pycocotools cannot store'}
    assert all(f.stops and f.file.startswith('val') for f in findings)
    load_and_evaluate(cfg, 'train')


def test_objects_of_a_million_pixels_are_accepted(root):
    data = tiny_coco.content()
    data['images'][1].update(width=2000, height=1000)
    del data['annotations'][3]  # run lengths of the other size
    ann(data, 102).update(bbox=[0, 0, 1900, 900], area=1900 * 900)
    tiny_coco.write(root, 'train', data)
    findings = check_data(tiny_coco.config(root), ['train'], progress=False).findings
    assert [f.kind for f in findings] == ['image of another size than stated']


@pytest.mark.parametrize('all_objects', [True, False])
def test_rle_masks_in_a_pipeline_of_polygons(all_objects, root):
    """MMDetection ignores such objects without a word."""
    data = tiny_coco.content()
    for annotation in data['annotations']:
        box = annotation['bbox']
        if not annotation['iscrowd']:
            annotation['segmentation'] = (
                tiny_coco.rle(box) if all_objects else tiny_coco.polygon(box)
            )
    tiny_coco.write(root, 'train', data)
    cfg = tiny_coco.config(root)
    assert check_data(cfg, ['train'], progress=False).findings == []
    cfg.train_dataloader.dataset.pipeline[1].poly2mask = False
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    objects = sum(len(item['data_samples'].gt_instances) for item in dataset)
    assert objects == (0 if all_objects else 4)
    if not all_objects:
        check_before_training(cfg)
        return
    with pytest.raises(UserError, match='set poly2mask=True') as error:
        check_before_training(cfg)
    assert 'RLE mask in a pipeline that loads polygons only' in str(error.value)


def test_masks_that_are_all_invalid_leave_nothing_to_train_on(root):
    data = tiny_coco.content()
    for annotation in data['annotations']:
        annotation['segmentation'] = [[20, 50, 50, 50, 50, 90, 20]]
    tiny_coco.write(root, 'train', data)
    report = check_data(tiny_coco.config(root), ['train'], progress=False)
    assert [f.kind for f in report.stopping] == ['nothing is left to train on']


def test_the_superclass_of_a_roboflow_export(root):
    """Category 0 has no objects. It may be left out, and is pointed at if not."""
    data = tiny_coco.content()
    data['categories'].insert(0, dict(id=0, name='shape', supercategory='none'))
    tiny_coco.write(root, 'train', data)
    assert check_data(tiny_coco.config(root), ['train'], progress=False).findings == []
    cfg = tiny_coco.config(root, classes=('shape', *tiny_coco.CLASSES))
    (finding,) = check_data(cfg, ['train'], progress=False).findings
    assert finding.kind == 'class without objects' and not finding.stops
    assert "'shape', the supercategory of others" in finding.detail
    # A project that is called like one of its classes.
    data['categories'][0]['name'] = 'circle'
    tiny_coco.write(root, 'train', data)
    findings = check_data(tiny_coco.config(root), ['train'], progress=False).stopping
    assert 'duplicate category name' in [f.kind for f in findings]


def test_names_that_no_terminal_shows(root, capsys):
    data = tiny_coco.content()
    data['images'][1]['file_name'] = '\x1b[2J\ud800\n' + 'long' * 1000
    (root / 'train.json').write_text(json.dumps(data))
    (finding,) = check_data(tiny_coco.config(root), ['train'], progress=False).findings
    assert finding.stops and str(finding).isprintable() and len(str(finding)) < 800


def test_counts_of_a_clean_set(root):
    report = check_data(tiny_coco.config(root), progress=False)
    assert report.counts == [
        f'{name}: {root}/{name}.json: 4 images, {used} of them used; 4 objects '
        '(circle 1, square 2, triangle 1); 1 crowds'
        for name, used in (('train', 3), ('val', 4))
    ]
    assert report.skipped == []
