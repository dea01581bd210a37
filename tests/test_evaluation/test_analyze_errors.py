"""tools/analyze_errors.py on predictions whose errors are known."""

import csv
import json
import math

from mobilevig_det.cli import error_report
from mobilevig_det.evaluation.error_analysis import confusion

import numpy as np
import pytest
import tiny_coco
import tool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Two classes, 20 objects each, side 20, in 10 images; far from each other.
IDS = dict(circle=3, square=7)


def truth():
    content = tiny_coco.content()
    content['images'] = [
        dict(id=i, file_name=f'{i}.jpg', width=160, height=120) for i in range(10)
    ]
    content['annotations'] = [
        tiny_coco.annotation(
            1 + len(IDS) * (2 * i + row) + column,
            i,
            id,
            (10 + 80 * column, 10 + 60 * row, 20, 20),
        )
        for i in range(10)
        for row in range(2)
        for column, id in enumerate(IDS.values())
    ]
    return content


def perfect(content, score=0.9):
    return [
        dict(
            image_id=a['image_id'],
            category_id=a['category_id'],
            bbox=list(a['bbox']),
            segmentation=tiny_coco.rle(a['bbox']),
            score=score,
        )
        for a in content['annotations']
    ]


def move(detection, dx=0, **changes):
    x, y, w, h = detection['bbox']
    box = [x + dx, y, w, h]
    return {**detection, 'bbox': box, 'segmentation': tiny_coco.rle(box), **changes}


def other(category_id):
    return 10 - category_id  # 3 and 7


@pytest.fixture
def analyze(tmp_path, capsys, monkeypatch):
    cfg = tiny_coco.config(tmp_path)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.dump(tmp_path / 'config.py')
    (tmp_path / 'val').mkdir()

    def run(content, detections, *argv, draw=False):
        (tmp_path / 'val.json').write_text(json.dumps(content))
        path = tmp_path / 'predictions.json'
        path.write_text(json.dumps(detections))
        module = tool.load('analyze_errors')
        if not draw:
            for name in ('plot_losses', 'plot_confusion'):
                monkeypatch.setattr(error_report, name, lambda *args: None)
        try:
            module.main(
                [
                    str(tmp_path / 'config.py'),
                    str(path),
                    '--out-dir',
                    str(tmp_path / 'out'),
                    *argv,
                ]
            )
        except SystemExit as end:
            return end.code
        with open(tmp_path / 'out' / 'errors.csv', newline='') as file:
            rows = {row.pop('class'): row for row in csv.DictReader(file)}
        return {
            name: {key: float(value) for key, value in row.items()}
            for name, row in rows.items()
        }

    return run


def parts(row):
    return [
        row[name]
        for name in ('ap50', 'localisation', 'classification', 'background', 'missed')
    ]


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_perfect(kind, analyze, tmp_path):
    content = truth()
    rows = analyze(content, perfect(content), '--type', kind, draw=True)
    assert rows['all']['objects'] == 40
    assert rows['all']['ap'] == pytest.approx(1)
    for name in 'circle', 'square', 'all', 'all, small':
        assert parts(rows[name]) == pytest.approx([1, 0, 0, 0, 0])
    assert rows['triangle']['objects'] == 0
    assert math.isnan(rows['triangle']['ap'])
    assert rows['all, large']['objects'] == 0
    for name in 'errors.png', 'confusion_matrix.png':
        assert (tmp_path / 'out' / name).stat().st_size > 5000


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_each_kind_of_error_is_booked_as_such(kind, analyze):
    content = truth()
    good = perfect(content)

    # IoU 1/3: neither at 0.5 nor background.
    shifted = [move(d, dx=10) for d in good]
    rows = analyze(content, shifted, '--type', kind)
    assert parts(rows['all']) == pytest.approx([0, 1, 0, 0, 0])

    # IoU 0.6: at 0.5, but not at 0.75.
    rows = analyze(content, [move(d, dx=5) for d in good], '--type', kind)
    assert parts(rows['all']) == pytest.approx([1, 0, 0, 0, 0])
    assert (rows['all']['ap75'], rows['all']['ap']) == pytest.approx((0, 0.3))

    # As many wrong detections, all of higher score: a precision of 1/2.
    wrong_class = [
        move(d, score=0.95, category_id=other(d['category_id'])) for d in good
    ]
    rows = analyze(content, good + wrong_class, '--type', kind)
    assert parts(rows['all']) == pytest.approx([0.5, 0, 0.5, 0, 0])

    nowhere = [move(d, dx=40, score=0.95) for d in good]
    rows = analyze(content, good + nowhere, '--type', kind)
    assert parts(rows['all']) == pytest.approx([0.5, 0, 0, 0.5, 0])

    half = [d for d in good if d['image_id'] % 2 or d['category_id'] == 7]
    rows = analyze(content, half, '--type', kind)
    assert parts(rows['square']) == pytest.approx([1, 0, 0, 0, 0])
    assert parts(rows['circle']) == pytest.approx([0.5, 0, 0, 0, 0.5], abs=0.01)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ap_is_that_of_pycocotools(kind, analyze, tmp_path):
    """On a mess of everything, with objects of three sizes and a crowd."""
    rng = np.random.default_rng(0)
    content = truth()
    content['annotations'] += [
        tiny_coco.annotation(100 + i, i, 3, (40, 30, 40, 60)) for i in range(5)
    ] + [
        tiny_coco.annotation(200, 7, 90, (0, 0, 120, 110)),
        tiny_coco.annotation(
            201, 8, 7, (0, 0, 60, 60), tiny_coco.rle((0, 0, 60, 60)), 1
        ),
    ]
    detections = [
        move(
            d,
            dx=int(rng.integers(0, 12)),
            score=float(rng.random()),
            category_id=int(rng.choice([3, 7, 90], p=[0.5, 0.4, 0.1])),
        )
        for d in perfect(content) + perfect(content)
    ]
    rows = analyze(content, detections, '--type', kind)
    coco = COCO(str(tmp_path / 'val.json'))
    results = [dict(d) for d in detections]
    for d in results:
        d.pop('bbox' if kind == 'segm' else 'segmentation')
    evaluation = COCOeval(coco, coco.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75, small, medium, large = evaluation.stats[:6]
    mine = rows['all']
    assert (mine['ap'], mine['ap50'], mine['ap75']) == pytest.approx((ap, ap50, ap75))
    assert [
        rows[f'all, {size}']['ap'] for size in ('small', 'medium', 'large')
    ] == pytest.approx([small, medium, large])
    assert 0 < ap < 1
    for row in rows.values():
        assert sum(parts(row)) == pytest.approx(1)
        assert min(parts(row)) >= -1e-9


def test_confusion_matrix():
    content = truth()
    content['annotations'].append(
        tiny_coco.annotation(
            500, 9, 7, (100, 0, 60, 60), tiny_coco.rle((100, 0, 60, 60)), 1
        )
    )
    good = perfect(content)
    crowd = good.pop()
    detections = [
        *(d for d in good[:10]),
        *(move(d, category_id=other(d['category_id'])) for d in good[10:16]),
        *(move(d, dx=40) for d in good[16:20]),
        *(move(d, score=0.2) for d in good[20:30]),
        move(crowd, dx=2),  # in the crowd: doesn't count
        move(good[0], dx=1, score=0.8),  # twice: the second is background
    ]
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    found = coco.loadRes([dict(d) for d in detections])
    for kind in 'bbox', 'segm':
        counts = confusion(coco, found, kind, [3, 7], 0.3)
        assert counts.tolist() == [[5, 3, 12], [3, 5, 12], [3, 2, 0]]


def test_the_output_of_infer_is_taken(analyze):
    content = truth()
    rows = analyze(content, dict(annotations=perfect(content), images=[]))
    assert rows['all']['ap'] == pytest.approx(1)


@pytest.mark.parametrize(
    'detections, said',
    [
        ([], 'holds no detections'),
        ({}, 'does not hold detections in COCO format'),
        ([dict(bbox=[1, 2, 3, 4])], 'does not hold detections in COCO format'),
        (
            [dict(image_id=77, category_id=3, bbox=[1, 2, 3, 4], score=0.5)],
            'made from another data set',
        ),
    ],
)
def test_bad_predictions(detections, said, analyze):
    assert said in analyze(truth(), detections)


def test_bad_files(analyze, tmp_path):
    analyze(truth(), [])
    config = tmp_path / 'config.py'
    (tmp_path / 'cut.json').write_text('[{"image_id": 1, ')
    for name, said in (
        ('cut.json', 'cannot be read as JSON'),
        ('missing.json', 'No such file'),
        ('results.pkl', 'is a pickle'),
    ):
        assert said in tool.run('analyze_errors', config, tmp_path / name)
    boxes = [dict(image_id=1, category_id=3, bbox=[1, 2, 3, 4], score=0.5)]
    assert 'has no masks' in analyze(truth(), boxes, '--type', 'segm')
