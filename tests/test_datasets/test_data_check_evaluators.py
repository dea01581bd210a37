"""Evaluators that do not fit their data sets."""

import copy

from mobilevig_det.datasets.data_check import check_before_training, check_data
from mobilevig_det.errors import UserError
from mobilevig_det.evaluation import FastCocoMetric

import pytest
import tiny_coco
import torch
from mmdet.evaluation import CocoMetric


def findings(cfg):
    return check_data(cfg, ['val'], decode=False, progress=False).findings


def write_second_set(root, first_id):
    """Write a second validation set, 'more', whose image ids start with another."""
    data = tiny_coco.content()
    for image in data['images']:
        image['id'] += first_id
        image['file_name'] = f'more_{image["file_name"]}'
    for annotation in data['annotations']:
        annotation['image_id'] += first_id
        annotation['id'] += first_id
    tiny_coco.write(root, 'more', data)
    for i in range(1, 5):
        (root / 'more' / f'more_{i}.jpg').write_bytes(tiny_coco.JPEG)
    return data


def two_sets(root):
    cfg = tiny_coco.config(root)
    first = cfg.val_dataloader.dataset
    second = copy.deepcopy(first)
    second.update(ann_file='more.json', data_prefix=dict(img='more/'))
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
    return cfg


@pytest.mark.parametrize('kind', [CocoMetric, FastCocoMetric])
def test_a_class_that_the_evaluated_file_lacks(kind, root):
    """The metric fails as soon as the class is predicted."""
    data = tiny_coco.content()
    data['categories'].pop()
    data['annotations'] = [a for a in data['annotations'] if a['category_id'] != 90]
    for split in 'train', 'val':
        tiny_coco.write(root, split, data)
    cfg = tiny_coco.config(root)
    cfg.val_evaluator.type = kind.__name__
    (finding,) = findings(cfg)
    assert finding.stops and "'triangle'. Add them" in finding.detail
    (finding,) = check_data(cfg, ['train'], progress=False).findings
    assert not finding.stops
    metric = kind(ann_file=str(root / 'val.json'))
    metric.dataset_meta = dict(classes=tiny_coco.CLASSES)
    found = dict(
        bboxes=torch.tensor([[1.0, 2, 30, 40]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([2]),
    )
    metric.process({}, [dict(img_id=10, ori_shape=(120, 160), pred_instances=found)])
    with pytest.raises((IndexError, UserError), match='out of range|2 of the 3'):
        metric.evaluate(1)
    # Without a file, the metric takes the classes of the data set.
    del cfg.val_evaluator['ann_file']
    assert [finding.stops for finding in findings(cfg)] == [False]


def test_concatenated_sets_need_a_file_with_all_their_images(root):
    write_second_set(root, 1000)
    cfg = two_sets(root)
    (finding,) = findings(cfg)
    assert finding.stops and '4, such as image 1010' in finding.detail
    both = tiny_coco.content()
    for key, values in write_second_set(root, 1000).items():
        both[key] += values if key != 'categories' else []
    tiny_coco.write(root, 'both', both)
    cfg.val_evaluator.ann_file = str(root / 'both.json')
    assert findings(cfg) == []


@pytest.mark.parametrize('file', ['val.json', 'more.json', None])
def test_concatenated_sets_that_share_ids_are_mixed(file, root):
    write_second_set(root, 20)  # 30 and 40 are in both
    cfg = two_sets(root)
    cfg.val_evaluator.ann_file = file and str(root / file)
    kinds = {finding.kind for finding in findings(cfg) if finding.stops}
    assert 'image ids that several data sets of the split have' in kinds
    with pytest.raises(UserError, match='MultiDatasetsEvaluator'):
        check_before_training(cfg)


def test_one_metric_for_each_concatenated_set(root):
    write_second_set(root, 0)
    cfg = two_sets(root)
    metrics = [
        dict(cfg.val_evaluator, ann_file=str(root / f'{name}.json'))
        for name in ('val', 'more')
    ]
    cfg.val_evaluator = dict(
        type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['a', 'b']
    )
    assert findings(cfg) == []
    write_second_set(root, 1000)
    assert findings(cfg) == []
    cfg.val_evaluator.metrics[1].ann_file = str(root / 'val.json')
    assert 'lacks images' in findings(cfg)[0].kind


def test_an_evaluator_with_other_images_under_the_same_ids(root):
    cfg = tiny_coco.config(root)
    cfg.val_evaluator.ann_file = str(root / 'other.json')
    data = tiny_coco.content()
    data['images'][2]['file_name'] = 'train\\3.PNG'  # in another folder and format
    tiny_coco.write(root, 'other', data)
    assert findings(cfg) == []
    data['images'][2]['file_name'] = '5.jpg'
    tiny_coco.write(root, 'other', data)
    (finding,) = findings(cfg)
    assert finding.stops and '1, such as image 30' in finding.detail


def test_an_evaluator_with_more_images(root):
    """Their objects lower the AP: nobody looks for them."""
    cfg = tiny_coco.config(root)
    cfg.val_dataloader.dataset.indices = 3
    (finding,) = findings(cfg)
    assert not finding.stops and '1, such as image 40' in finding.detail


def test_an_evaluator_file_is_checked_like_a_data_set(root):
    """Here the classes of the file are in another order."""
    cfg = tiny_coco.config(root)
    data = tiny_coco.content()
    data['categories'].reverse()
    del data['annotations'][0]['iscrowd']
    tiny_coco.write(root, 'other', data)
    cfg.val_evaluator.ann_file = str(root / 'other.json')
    kinds = [finding.kind for finding in findings(cfg) if finding.stops]
    assert len(kinds) == 2 and 'has no "iscrowd"' in kinds


def test_other_evaluators_are_named_and_not_checked(root):
    cfg = tiny_coco.config(root)
    cfg.val_evaluator = [dict(type='VOCMetric', metric='mAP'), cfg.val_evaluator]
    report = check_data(cfg, ['val'], progress=False)
    assert report.findings == []
    assert report.skipped == [
        'val_evaluator: VOCMetric is not a COCO metric, and is not checked'
    ]


@pytest.mark.parametrize('with_mask', [True, False])
def test_a_mask_head_needs_masks(with_mask, root):
    cfg = tiny_coco.config(root)
    cfg.train_dataloader.dataset.pipeline[1].with_mask = with_mask
    cfg.model = dict(roi_head=dict(mask_head=dict(num_classes=3)))
    report = check_data(cfg, ['train'], decode=False, progress=False)
    assert ['loads no masks' in f.kind for f in report.stopping] == [True] * (
        not with_mask
    )
    cfg.model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
    assert check_data(cfg, ['train'], progress=False).findings == []
