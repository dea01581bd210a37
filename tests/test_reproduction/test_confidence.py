"""Intervals and APs against their definitions and pycocotools' summary."""

import contextlib
import io
import math

from reproduction.confidence import CocoAP, wilson
from reproduction.figures import Figure, exit_code, judge

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = [3, 7, 90]


@pytest.mark.parametrize('right, total', [(0, 1), (0, 40), (403, 500), (40, 40)])
def test_ends_of_wilsons_interval_are_1_96_deviations_away(right, total):
    share = right / total
    low, high = (end / 100 for end in wilson(right, total))
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            away = 1.959964 * math.sqrt(end * (1 - end) / total)
            assert abs(end - share) == pytest.approx(away)


def made(number, twice=()):
    """Generate ground truth and detections of ``number`` images.

    Images in ``twice`` occur a second time, with other ids.
    """
    random = np.random.default_rng(0)
    images, truth, found = [], [], []
    for id in range(1, number + 1):
        boxes = random.uniform(10, 60, (5, 4)).round(1)
        classes = random.choice(CLASSES, 5)
        noise = random.normal(0, 3, (5, 4)).round(1)
        scores = random.random(5)
        for copy in (id, id + 1000)[: 1 + (id in twice)]:
            images.append(dict(id=copy, width=200, height=200, file_name=f'{copy}'))
            for i in range(5):
                box, near = boxes[i].tolist(), (boxes[i] + noise[i]).tolist()
                name = dict(image_id=copy, category_id=int(classes[i]))
                area = box[2] * box[3]
                truth.append(
                    dict(name, id=len(truth) + 1, bbox=box, area=area, iscrowd=0)
                )
                if i != 2:
                    found.append(dict(name, bbox=near, score=float(scores[i])))
    coco = COCO()
    categories = [dict(id=id, name=str(id)) for id in CLASSES]
    coco.dataset = dict(
        info={}, images=images, annotations=truth, categories=categories
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, found


def summary(coco, found, image_ids):
    """Return the AP that pycocotools prints, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


def ap_of(coco, found, image_ids):
    return CocoAP(coco, found, 'bbox', image_ids, CLASSES)


def test_ap_equals_pycocotools():
    coco, found = made(30)
    for ids in (range(1, 31), [29, 3, 4, 8]):
        expected = summary(coco, found, list(ids))
        assert 10 < expected < 90
        assert ap_of(coco, found, ids).value() == pytest.approx(expected)


def test_resample_counts_an_image_as_often_as_it_is_drawn():
    """As if each copy were an image of its own."""
    coco, found = made(8)
    drawn = np.array([0, 0, 2, 3, 3, 5, 6, 7])  # without images 2 and 5
    with_copies, found_in_copies = made(8, twice=(1, 4))
    ids = [1, 1001, 3, 4, 1004, 6, 7, 8]
    expected = summary(with_copies, found_in_copies, ids)
    ap = ap_of(coco, found, range(1, 9))
    assert ap.value(drawn) == pytest.approx(expected)
    assert ap.value() == pytest.approx(summary(coco, found, list(range(1, 9))))


def test_interval_is_corrected_for_bias_and_wider_for_fewer_images():
    coco, found = made(60)
    widths = []
    for number in (60, 10):
        ap = ap_of(coco, found, range(1, number + 1))
        random = np.random.default_rng(0)
        draws = [ap.value(random.integers(0, number, number)) for _ in range(40)]
        low, high = ap.interval(40)
        assert (low + high) / 2 == pytest.approx(2 * ap.value() - np.mean(draws))
        widths.append(high - low)
    assert widths[0] == pytest.approx(0.0, abs=15) and widths[0] < widths[1]


def test_interval_of_a_subset_contains_the_ap_of_all_images():
    """For at least 16 of 20 random subsets; 95 % are expected."""
    coco, found = made(300)
    whole = ap_of(coco, found, range(1, 301)).value()
    random = np.random.default_rng(1)
    held = 0
    for _ in range(20):
        ids = random.choice(np.arange(1, 301), 40, replace=False)
        here = [d for d in found if d['image_id'] in ids]
        low, high = ap_of(coco, here, ids.tolist()).interval(30)
        assert high - low < 25
        held += low <= whole <= high
    assert held >= 16


def test_no_detections():
    ap = ap_of(made(3)[0], [], [1, 2, 3])
    assert ap.value() == 0
    assert ap.interval() == (0, 100)


def figure(published=80.6, tolerance=0.2):
    return Figure('coco', 'c', 'box AP', published, tolerance, 'paper', 'm')


@pytest.mark.parametrize(
    'measured, interval, verdict',
    [
        (80.8, None, 'reproduced'),
        (80.4, None, 'reproduced'),
        (80.81, None, 'missed'),
        (80.39, None, 'missed'),
        (78.0, (75.1, 80.4), 'reproduced'),
        (78.0, (75.1, 80.3), 'missed'),
        (84.0, (80.81, 86.0), 'missed'),
    ],
)
def test_verdict(measured, interval, verdict):
    assert judge(figure(), measured, interval, 200) == verdict
    if interval:  # too few images
        assert judge(figure(), measured, interval, 199) == 'not checked'
    assert judge(figure(published=None), measured, interval) == 'for information'
    assert judge(figure(24158530, 0), 24158531) == 'missed'


def test_exit_code():
    good, missed, unknown = 'reproduced', 'missed', 'not checked'
    assert exit_code([good, 'for information']) == 0
    assert exit_code([good, unknown]) == 2
    assert exit_code([unknown, missed, good]) == 1
