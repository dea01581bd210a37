"""What tools/check_data.py and the check before training say of bad data.

And that it is true: what is called tolerated goes through MMDetection's own
data set, pipeline and evaluator; what is said to stop fails in one of them,
or is marked as wrong in silence or as endless.
"""

from mobilevig_det.datasets.data_check import check_before_training, check_data
from mobilevig_det.errors import UserError

import pytest
import tiny_coco
from bad_annotations import CASES, TEXTS, ann
from mmdet.registry import DATASETS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_coco import load_and_evaluate


def check(root, split, **kwargs):
    return check_data(tiny_coco.config(root, **kwargs), [split], progress=False)


def test_a_clean_set_has_no_findings(root):
    cfg = tiny_coco.config(root)
    for decode in True, False:
        assert check_data(cfg, decode=decode, progress=False).findings == []
    check_before_training(cfg)
    for split in 'train', 'val':
        load_and_evaluate(cfg, split)


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', CASES)
def test_bad_annotations(name, split, root):
    case = CASES[name]
    said, does = getattr(case, split).split(', ')
    stops = {'stops': True, 'tolerated': False}[said]
    data = tiny_coco.content()
    changed = case.change(data)
    tiny_coco.write(root, split, changed if name in TEXTS else data)

    findings = check(root, split).findings
    mine = [finding for finding in findings if case.kind in finding.kind]
    assert mine, findings
    assert mine[0].stops == stops
    assert mine[0].record == case.record
    assert str(root / f'{split}.json') in mine[0].file
    assert any(f.stops for f in findings) == stops

    cfg = tiny_coco.config(root)
    if stops:
        with pytest.raises(UserError) as error:
            check_before_training(cfg)
        message = str(error.value)
        assert case.kind in message and case.record in message
        assert f'{split}.json' in message and 'check_data.py' in message
    else:
        check_before_training(cfg)

    if does == 'fails':
        with pytest.raises(Exception):  # noqa: B017
            load_and_evaluate(cfg, split)
    elif does == 'survives':
        load_and_evaluate(cfg, split)


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
        load_and_evaluate(cfg, 'val')
    tiny_coco.write(root, 'other')
    check_before_training(cfg)
    load_and_evaluate(cfg, 'val')


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
