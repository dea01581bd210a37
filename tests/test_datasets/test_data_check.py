"""What tools/check_data.py and the check before training say of bad data.

And that it is true: what is called tolerated goes through MMDetection's own
data set, pipeline and evaluator; what is said to stop fails in one of them,
or is marked here as wrong in silence or as endless.
"""

import json
import re

from mobilevig_det.datasets.data_check import (
    check_before_training,
    check_data,
    pointing_to_check_data,
)
from mobilevig_det.datasets.data_check.masks import rle_area
from mobilevig_det.errors import UserError

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_coco
import tool
import torch
from bad_images import bad_files, encode, exif, good_files, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader

ANN = 'annotation 102 (image 20)'  # a polygon
RLE = 'annotation 101 (image 10)'


def ann(data, id):
    return next(a for a in data['annotations'] if a['id'] == id)


def change(which, **values):
    return lambda data: ann(data, which).update(values)


def change_rle(**values):
    return lambda data: ann(data, 101)['segmentation'].update(values)


def without(key, id=102):
    return lambda data: ann(data, id).pop(key)


def drop(key):
    return lambda data: data.pop(key)


def empty(*keys):
    return lambda data: [data[key].clear() for key in keys]


def again(key, **values):
    return lambda data: data[key].append({**data[key][0], **values})


STOPS, TOLERATED = 'stops', 'tolerated'
FAILS, SILENT, ENDLESS, SURVIVES = 'fails', 'silent', 'endless', 'survives'

TEXTS = 'cut off', 'empty file', 'not JSON', 'a list'  # not objects

# name: change, what is said of the training set, of the validation set, kind,
# record, what really happens in each.
CASES = {
    'cut off': (
        lambda data: json.dumps(data)[:-200],
        STOPS,
        STOPS,
        'is cut off',
        '',
        FAILS,
        FAILS,
    ),
    'empty file': (
        lambda data: '',
        STOPS,
        STOPS,
        'is cut off, or empty',
        '',
        FAILS,
        FAILS,
    ),
    'not JSON': (lambda data: '<html>', STOPS, STOPS, 'is not JSON', '', FAILS, FAILS),
    'a list': (
        lambda data: '[]',
        STOPS,
        STOPS,
        'not a COCO annotation file',
        '',
        FAILS,
        FAILS,
    ),
    'no categories': (
        drop('categories'),
        STOPS,
        STOPS,
        'has no list "categories"',
        '',
        FAILS,
        FAILS,
    ),
    'no images': (
        drop('images'),
        STOPS,
        STOPS,
        'has no list "images"',
        '',
        FAILS,
        FAILS,
    ),
    'no annotations': (
        drop('annotations'),
        STOPS,
        STOPS,
        'has no list "annotations"',
        '',
        FAILS,
        SILENT,
    ),
    'empty images': (empty('images'), STOPS, STOPS, 'has no images', '', FAILS, FAILS),
    'empty annotations': (
        empty('annotations'),
        STOPS,
        TOLERATED,
        'has no annotations',
        '',
        FAILS,
        SURVIVES,
    ),
    'empty categories': (
        empty('categories'),
        STOPS,
        STOPS,
        "none of the config's classes",
        '',
        FAILS,
        FAILS,
    ),
    'no box': (without('bbox'), STOPS, STOPS, 'has no "bbox"', ANN, FAILS, FAILS),
    'no area': (without('area'), STOPS, STOPS, 'has no "area"', ANN, FAILS, FAILS),
    'no category': (
        without('category_id'),
        STOPS,
        STOPS,
        'has no "category_id"',
        ANN,
        FAILS,
        FAILS,
    ),
    'no image id': (
        without('image_id'),
        STOPS,
        STOPS,
        'has no "image_id"',
        'annotation 102 (image unknown)',
        FAILS,
        FAILS,
    ),
    'no id': (
        without('id'),
        STOPS,
        STOPS,
        'has no "id"',
        'annotations[2]',
        FAILS,
        FAILS,
    ),
    'no width': (
        lambda data: data['images'][1].pop('width'),
        STOPS,
        STOPS,
        'has no "width"',
        'image 20',
        FAILS,
        FAILS,
    ),
    'no file name': (
        lambda data: data['images'][1].pop('file_name'),
        STOPS,
        STOPS,
        'has no "file_name"',
        'image 20',
        FAILS,
        FAILS,
    ),
    'no mask': (
        without('segmentation'),
        STOPS,
        STOPS,
        'has no "segmentation"',
        ANN,
        FAILS,
        FAILS,
    ),
    'empty mask': (
        change(102, segmentation=[]),
        STOPS,
        STOPS,
        'has no "segmentation"',
        ANN,
        FAILS,
        FAILS,
    ),
    'box of no width': (
        change(102, bbox=[20, 50, 0, 40]),
        TOLERATED,
        TOLERATED,
        'no area',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'box of negative width': (
        change(102, bbox=[50, 50, -30, 40]),
        TOLERATED,
        TOLERATED,
        'no area',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'object of no area': (
        change(102, area=0),
        TOLERATED,
        TOLERATED,
        'no area',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'box of three numbers': (
        change(102, bbox=[1, 2, 3]),
        STOPS,
        STOPS,
        'not of finite numbers',
        ANN,
        FAILS,
        FAILS,
    ),
    'box of words': (
        change(102, bbox=['1', '2', '3', '4']),
        STOPS,
        STOPS,
        'not of finite numbers',
        ANN,
        FAILS,
        FAILS,
    ),
    'box of NaN': (
        change(102, bbox=[20, float('nan'), 30, 40]),
        STOPS,
        STOPS,
        'not of finite numbers',
        ANN,
        SILENT,
        SILENT,
    ),
    'box outside': (
        change(102, bbox=[200, 50, 30, 40]),
        TOLERATED,
        TOLERATED,
        'box outside the image',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'box half outside': (
        change(102, bbox=[-20, 50, 60, 40]),
        TOLERATED,
        TOLERATED,
        'reaches outside',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'two points': (
        change(102, segmentation=[[20, 50, 50, 90]]),
        TOLERATED,
        STOPS,
        'polygon of two points',
        ANN,
        SURVIVES,
        FAILS,
    ),
    'two points beside a polygon': (
        change(102, segmentation=[[20, 50, 50, 50, 50, 90], [20, 50, 50, 90]]),
        TOLERATED,
        TOLERATED,
        'polygon of two points',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'one point': (
        change(102, segmentation=[[20, 50]]),
        TOLERATED,
        STOPS,
        'polygon of two points',
        ANN,
        SURVIVES,
        FAILS,
    ),
    'odd polygon': (
        change(102, segmentation=[[20, 50, 50, 50, 50, 90, 20]]),
        TOLERATED,
        TOLERATED,
        'odd number',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'flat polygon': (
        change(102, segmentation=[20, 50, 50, 50, 50, 90]),
        STOPS,
        STOPS,
        'not a list of finite numbers',
        ANN,
        FAILS,
        FAILS,
    ),
    'polygon of words': (
        change(102, segmentation=[['a', 'b'] * 4]),
        STOPS,
        STOPS,
        'not a list of finite numbers',
        ANN,
        FAILS,
        FAILS,
    ),
    'polygon of NaN': (
        change(102, segmentation=[[20, 50, 50, float('nan'), 50, 90]]),
        STOPS,
        STOPS,
        'not a list of finite numbers',
        ANN,
        ENDLESS,
        ENDLESS,
    ),
    'polygon far away': (
        change(102, segmentation=[[20, 50, 1e12, 50, 50, 90]]),
        STOPS,
        STOPS,
        'not a list of finite numbers',
        ANN,
        ENDLESS,
        ENDLESS,
    ),
    'RLE of another size': (
        change(101, segmentation=tiny_coco.rle((1, 1, 9, 9), 60, 80)),
        STOPS,
        STOPS,
        'RLE mask of another size',
        RLE,
        FAILS,
        FAILS,
    ),
    'RLE of turned size': (
        change(101, segmentation=tiny_coco.rle((1, 1, 9, 9), 160, 120)),
        STOPS,
        STOPS,
        'RLE mask of another size',
        RLE,
        FAILS,
        FAILS,
    ),
    'RLE that says another size': (
        change_rle(size=[60, 80]),
        STOPS,
        STOPS,
        'RLE mask of another size',
        RLE,
        FAILS,
        FAILS,
    ),
    'RLE too short': (
        change_rle(counts=[10, 20]),
        STOPS,
        STOPS,
        'does not fill its size',
        RLE,
        SILENT,
        SILENT,
    ),
    'RLE of nonsense': (
        change_rle(counts='zzz'),
        STOPS,
        STOPS,
        'does not fill its size',
        RLE,
        SILENT,
        SILENT,
    ),
    'RLE too long': (
        change_rle(counts=[10, 20000]),
        STOPS,
        STOPS,
        'does not fill its size',
        RLE,
        FAILS,
        FAILS,
    ),
    'duplicate annotation id': (
        change(102, id=101),
        STOPS,
        STOPS,
        'duplicate annotation id',
        'annotation 101 (image 20)',
        FAILS,
        FAILS,
    ),
    'duplicate image id': (
        again('images', file_name='2.jpg'),
        STOPS,
        STOPS,
        'duplicate image id',
        'image 10',
        SILENT,
        SILENT,
    ),
    'duplicate category id': (
        again('categories', name='square'),
        STOPS,
        STOPS,
        'duplicate category id',
        'categories[3]',
        SILENT,
        SILENT,
    ),
    'duplicate category name': (
        again('categories', id=91),
        STOPS,
        STOPS,
        'duplicate category name',
        'categories[3]',
        SILENT,
        SILENT,
    ),
    'one file twice': (
        again('images', id=50),
        TOLERATED,
        TOLERATED,
        'listed twice',
        'image 50',
        SURVIVES,
        SURVIVES,
    ),
    'category not in the file': (
        change(102, category_id=8),
        TOLERATED,
        TOLERATED,
        'of a category that is not in the file',
        ANN,
        SURVIVES,
        SURVIVES,
    ),
    'image not in the file': (
        change(102, image_id=99),
        TOLERATED,
        TOLERATED,
        'of an image that is not in the file',
        'annotation 102 (image 99)',
        SURVIVES,
        SURVIVES,
    ),
    'narrow image': (
        lambda data: data['images'][3].update(width=1),
        TOLERATED,
        STOPS,
        'another size than stated',
        'image 40',
        SURVIVES,
        SILENT,
    ),
}


def perfect_predictions(dataset):
    """What a model that saw the truth would predict."""
    for sample in (dataset[i]['data_samples'] for i in range(len(dataset))):
        height, width = sample.ori_shape
        yield dict(
            img_id=sample.img_id,
            ori_shape=sample.ori_shape,
            pred_instances=dict(
                bboxes=torch.tensor([[8.0, 10, 48, 40]]),
                scores=torch.tensor([0.9]),
                labels=torch.tensor([0]),
                masks=[
                    mask_utils.encode(
                        np.asfortranarray(np.eye(height, width, dtype=np.uint8))
                    )
                ],
            ),
        )


def really_use(cfg, split):
    """All that MMDetection will do with the data during a run."""
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) > 0
    items = [dataset[i] for i in range(len(dataset))]
    assert all(item is not None for item in items)
    if split == 'val':
        metric = CocoMetric(
            **{key: value for key, value in cfg.val_evaluator.items() if key != 'type'}
        )
        metric.dataset_meta = dataset.metainfo
        for prediction in perfect_predictions(dataset):
            metric.process({}, [prediction])
        metric.evaluate(len(dataset))


@pytest.fixture
def root(tmp_path):
    init_default_scope('mmdet')
    tiny_coco.write(tmp_path, 'train')
    tiny_coco.write(tmp_path, 'val')
    return tmp_path


def check(root, split, **kwargs):
    return check_data(tiny_coco.config(root, **kwargs), [split], progress=False)


def test_a_clean_set_has_no_findings(root):
    cfg = tiny_coco.config(root)
    for decode in True, False:
        assert check_data(cfg, decode=decode, progress=False).findings == []
    check_before_training(cfg)
    for split in 'train', 'val':
        really_use(cfg, split)


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', CASES)
def test_bad_annotations(name, split, root):
    mutate, in_train, in_val, kind, record, train_does, val_does = CASES[name]
    expected = in_train if split == 'train' else in_val
    data = tiny_coco.content()
    changed = mutate(data)
    tiny_coco.write(root, split, changed if name in TEXTS else data)

    findings = check(root, split).findings
    mine = [finding for finding in findings if kind in finding.kind]
    assert mine, findings
    assert mine[0].stops == (expected == STOPS)
    assert mine[0].record == record
    assert str(root / f'{split}.json') in mine[0].file
    assert any(f.stops for f in findings) == (expected == STOPS)

    cfg = tiny_coco.config(root)
    if expected == STOPS:
        with pytest.raises(UserError) as error:
            check_before_training(cfg)
        message = str(error.value)
        assert kind in message and record in message
        assert f'{split}.json' in message and 'check_data.py' in message
    else:
        check_before_training(cfg)

    does = train_does if split == 'train' else val_does
    if does == FAILS:
        with pytest.raises(Exception):  # noqa: B017
            really_use(cfg, split)
    elif does == SURVIVES:
        really_use(cfg, split)


def test_annotation_id_0(root):
    """Tolerated by the evaluator, and wrong: said of evaluation sets."""
    data = tiny_coco.content()
    ann(data, 102)['id'] = 0
    for split in 'train', 'val':
        tiny_coco.write(root, split, data)
    assert check(root, 'train').findings == []
    (finding,) = check(root, 'val').findings
    assert finding.record == 'annotation 0 (image 20)' and not finding.stops
    coco = COCO(str(root / 'val.json'))
    results = [dict(a, score=0.9) for a in data['annotations'] if not a['iscrowd']]
    evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] < 0.9  # of perfect detections


def test_category_ids_with_gaps_become_consecutive_labels(root):
    """COCO's own ids have gaps: nothing to report, labels 0 to 2."""
    dataset = DATASETS.build(tiny_coco.config(root).val_dataloader.dataset)
    labels = dataset[0]['data_samples'].gt_instances.labels
    assert labels.tolist() == [0, 1]
    assert check(root, 'val').findings == []


@pytest.mark.parametrize(
    'classes, stops, said',
    [
        (('person', 'car'), True, "none of the config's classes"),
        (('square', 'circle', 'triangle'), True, 'they are in another order'),
        (('circle', 'hexagon', 'triangle'), True, "missing there: 'hexagon'"),
        (('circle', 'square', 'triangle', 'hexagon'), False, "'hexagon'"),
        (('circle', 'square'), False, 'of a class that is not in the config'),
    ],
)
def test_classes_that_do_not_match(classes, stops, said, root):
    findings = check(root, 'train', classes=classes).findings
    text = '\n'.join(map(str, findings))
    assert said in text
    assert any(finding.stops for finding in findings) == stops
    if stops:
        assert "'circle', 'square', 'triangle'" in text  # what to write


def test_evaluator_of_another_set(root):
    """The file was changed for the data set, and not for its evaluator."""
    cfg = tiny_coco.config(root)
    cfg.val_evaluator.ann_file = str(root / 'missing.json')
    with pytest.raises(UserError, match='val_evaluator.ann_file=.*missing'):
        check_before_training(cfg)
    data = tiny_coco.content()
    del data['images'][1]
    tiny_coco.write(root, 'other', data)
    cfg.val_evaluator.ann_file = str(root / 'other.json')
    with pytest.raises(UserError, match='lacks images.*1, such as image 20'):
        check_before_training(cfg)
    with pytest.raises(Exception):  # noqa: B017
        really_use(cfg, 'val')
    tiny_coco.write(root, 'other')
    check_before_training(cfg)
    really_use(cfg, 'val')


def test_other_formats_are_left_alone(root, capsys):
    """Panoptic annotations, for one, have no boxes of their own."""
    cfg = tiny_coco.config(root)
    cfg.train_dataloader.dataset.type = 'CocoPanopticDataset'
    data = tiny_coco.content()
    for annotation in data['annotations']:
        del annotation['bbox'], annotation['segmentation']
    tiny_coco.write(root, 'train', data)
    assert check_data(cfg, ['train'], progress=False).findings == []


def test_heads_for_another_number_of_classes(root):
    cfg = tiny_coco.config(root)
    cfg.model = dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=[dict(num_classes=3), dict(num_classes=80)],
            mask_head=dict(num_classes=3),
        ),
    )
    with pytest.raises(
        UserError, match='num_classes=80, but the training set has 3'
    ) as error:
        check_before_training(cfg)
    assert 'model.roi_head.bbox_head' in str(error.value)
    cfg.model.roi_head.bbox_head[1].num_classes = 3
    check_before_training(cfg)


@pytest.mark.parametrize('name', bad_files())
def test_bad_images(name, root):
    data, reason = bad_files()[name]
    (root / 'train' / '2.jpg').write_bytes(data)
    (root / 'train' / '4.jpg').write_bytes(data)  # without objects: not read
    for decode in True, False:
        findings = check_data(
            tiny_coco.config(root), ['train'], decode=decode, progress=False
        ).findings
        assert [(f.record, f.stops) for f in findings] == [
            ('image 20', True),
            ('image 40', False),
        ]
        assert all(reason in f.detail for f in findings)
    with pytest.raises(UserError, match='image 20.*2.jpg'):
        check_before_training(tiny_coco.config(root))
    with pytest.raises(Exception):  # noqa: B017
        really_use(tiny_coco.config(root), 'train')


@pytest.mark.parametrize('name', good_files())
def test_images_of_other_kinds_train(name, root):
    (root / 'train' / '2.jpg').write_bytes(good_files()[name])
    assert check(root, 'train').findings == []
    check_before_training(tiny_coco.config(root))
    really_use(tiny_coco.config(root), 'train')


def test_missing_and_mismatched_images(root):
    (root / 'train' / '1.jpg').unlink()
    (root / 'train' / '2.jpg').write_bytes(encode(picture(120, 160)))
    (root / 'train' / '3.jpg').write_bytes(encode(picture(), exif=exif(6)))
    findings = check(root, 'train').findings
    assert [f.record for f in findings] == ['image 10', 'image 20', 'image 30']
    assert all(f.stops for f in findings)
    assert 'there is no such file' in findings[0].detail
    for finding in findings[1:]:
        assert finding.kind == 'image of another size than stated'
        assert '120 x 160 (upright) instead of 160 x 120' in finding.detail


def test_narrow_and_wide_images(root):
    """One pixel wide: left out of training, as filter_cfg asks. 20,000 wide:
    used, if the pipeline's scale leaves it a pixel of height."""
    data = tiny_coco.content()
    data['images'][0].update(width=1)
    data['images'][1].update(width=20000, height=100)
    data['annotations'] = [
        tiny_coco.annotation(1, 10, 3, (0, 0, 1, 100)),
        tiny_coco.annotation(2, 20, 3, (15000, 10, 400, 80)),
    ]
    tiny_coco.write(root, 'train', data)
    picture(1, 120).save(root / 'train' / '1.jpg')
    picture(20000, 100).save(root / 'train' / '2.jpg')
    cfg = tiny_coco.config(root)
    resize = cfg.train_dataloader.dataset.pipeline[2]
    resize.scale = (1333, 800)
    findings = check_data(cfg, ['train'], progress=False).findings
    assert [(f.record, f.stops) for f in findings] == [('image 10', False)]
    assert 'a side under 32 pixels' in findings[0].kind
    really_use(cfg, 'train')

    resize.scale = (96, 64)
    findings = check_data(cfg, ['train'], progress=False).findings
    assert [(f.record, f.stops) for f in findings] == [
        ('image 10', False),
        ('image 20', True),
    ]
    assert 'to 96 x 0 pixels' in findings[1].detail
    with pytest.raises(cv2.error):
        really_use(cfg, 'train')


def test_only_rank_0_checks(root, monkeypatch):
    (root / 'train' / '2.jpg').unlink()
    monkeypatch.setenv('RANK', '1')
    check_before_training(tiny_coco.config(root))
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(UserError):
        check_before_training(tiny_coco.config(root))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_failure_while_loading_points_to_the_tool(workers, root, capsys):
    """The image vanishes after the check before training."""
    cfg = Config.fromfile(write_config(root))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    (root / 'train' / '2.jpg').unlink()
    loader = DataLoader(dataset, num_workers=workers, collate_fn=len)
    tool_and_config = f'tools/check_data.py {root}/config.py'
    with pytest.raises(UserError, match=tool_and_config):
        with pointing_to_check_data(cfg):
            list(loader)
    assert '2.jpg' in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # not of the data
        with pointing_to_check_data(cfg):
            raise ZeroDivisionError


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_rle_area_counts_what_pycocotools_encodes(height, width, seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    if seed % 3 == 0:  # long runs
        mask = np.kron(mask, np.ones((37, 29), np.uint8))
    counts = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
    assert rle_area(counts) == mask.size
    assert rle_area(counts[:-1]) != mask.size


@pytest.mark.parametrize(
    'counts', ['', 'é', [], ['a'], [[1], [2]], [-1, 5], [float('nan')], [None], '\n']
)
def test_rle_area_of_nonsense(counts):
    assert rle_area(counts) <= 0


def write_config(root, cfg=None):
    path = root / 'config.py'
    (cfg or tiny_coco.config(root)).dump(path)
    return path


def test_tool_on_a_clean_set(root, capsys):
    assert tool.run('check_data', write_config(root)) == 0
    output = capsys.readouterr()
    assert output.out.endswith('Nothing found.\n')
    assert '4/4' in output.err  # the progress bar


def test_tool_reports_everything_in_one_go(root, capsys):
    data = tiny_coco.content()
    CASES['no mask'][0](data)
    CASES['RLE of another size'][0](data)
    tiny_coco.write(root, 'val', data)
    data = tiny_coco.content()
    data['annotations'] += [
        tiny_coco.annotation(200 + i, 30, 7, (200 + i, 0, 9, 9)) for i in range(12)
    ]
    tiny_coco.write(root, 'train', data)
    (root / 'train' / '1.jpg').unlink()
    (root / 'val' / '4.jpg').write_bytes(b'')

    config = write_config(root)
    assert tool.run('check_data', config) == 1
    text = capsys.readouterr().out
    for said in (
        '[STOPS TRAINING] train',
        'image 10: ',
        '1.jpg: there is no',
        '[tolerated] train',
        'box outside the image: 12',
        'annotation 209 (image 30)',
        '… and 2 more (--all)',
        ANN,
        RLE,
        'image 40: ',
        'the file is empty',
        '4 that stop training, 12 tolerated',
    ):
        assert said in text
    assert 'annotation 210' not in text
    # What stops comes first.
    assert text.index('tolerated]') > text.rindex('STOPS TRAINING]')

    assert tool.run('check_data', config, '--all', '--splits', 'train') == 1
    text = capsys.readouterr().out
    assert 'annotation 211 (image 30)' in text and 'val:' not in text


def test_tool_without_data_sets(root, capsys):
    cfg = tiny_coco.config(root)
    cfg.train_dataloader = None
    message = tool.run('check_data', write_config(root, cfg), '--splits', 'train')
    assert re.search('no COCO-format data set in train', message)
