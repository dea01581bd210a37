"""predictions.json and predictions.parquet against what holds everything in memory."""

import errno
import json
import os
import tracemalloc

import mobilevig_det.inference.writers
from mobilevig_det.inference.images import InputImage
from mobilevig_det.inference.results import empty_record
from mobilevig_det.inference.stores import JsonLinesWriter, sorted_lines
from mobilevig_det.inference.writers import Summary, read_test_set, write_result

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from plain_detector import CLASSES, PlainDetector

CATEGORIES = dict(zip((3, 7, 90), CLASSES))


class Everything:
    """COCO's file from its definition, all of it in memory.

    Images are expected in the order of the inputs, and added in any order.
    """

    def __init__(self, categories, image_ids):
        self.categories, self.image_ids = categories, image_ids
        self.next_id = 1 + max(image_ids.values(), default=0)
        self.images, self.found = {}, {}

    def expect(self, name, image, **more):
        id = self.image_ids.get(os.path.realpath(name))
        if id is None:
            id, self.next_id = self.next_id, self.next_id + 1
        height, width = image.shape[:2]
        self.images.setdefault(
            id, dict(id=id, file_name=name, width=width, height=height, **more)
        )
        return id

    def add(self, id, result, score_thr):
        if id in self.found:
            return
        found = self.found[id] = []
        for i, score in enumerate(result.scores.tolist()):
            if score < score_thr:
                continue
            label = list(self.categories)[result.labels[i]]
            one = dict(image_id=id, category_id=label, score=score, iscrowd=0)
            x1, y1, x2, y2 = result.boxes[i].tolist()
            if result.masks is not None:
                mask = np.asfortranarray(result.masks[i].astype(np.uint8))
                one['area'] = float(mask.sum())
                one['bbox'] = [x1, y1, x2 - x1, y2 - y1]
                counts = mask_utils.encode(mask)['counts'].decode()
                one['segmentation'] = dict(size=list(mask.shape), counts=counts)
            else:
                one['bbox'] = [x1, y1, x2 - x1, y2 - y1]
                one['area'] = (x2 - x1) * (y2 - y1)
            found.append(one)

    def text(self):
        found = [one for id in self.images for one in self.found.get(id, [])]
        return json.dumps(
            dict(
                info=dict(description='Detections of mobilevig_det'),
                images=[image for id, image in self.images.items() if id in self.found],
                annotations=[dict(id=n, **one) for n, one in enumerate(found, 1)],
                categories=[
                    dict(id=id, name=name) for id, name in self.categories.items()
                ],
            )
        )


def image_of(name):
    size = np.random.default_rng(len(name)).integers(1, 30, 2)
    return np.full((*size, 3), sum(map(ord, name)) % 251, np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(
        st.text('ab/."\udce9ü', min_size=1, max_size=4).filter(
            lambda name: os.path.basename(name) not in ('', '.', '..')
        ),
        unique=True,
        max_size=12,
    ),
    masks=st.booleans(),
    data=st.data(),
)
def test_coco_to_the_byte(tmp_path_factory, names, masks, data):
    """Some are in the test set, some of these have two names, some can't be read or
    prepared; two processes have them in any order."""
    folder = tmp_path_factory.mktemp('out')
    test_set = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    ids = data.draw(st.permutations(range(70, 70 + len(test_set))))
    image_ids = dict(zip(map(os.path.realpath, test_set), ids))
    everything = Everything(CATEGORIES, image_ids)
    detector, rows = PlainDetector(masks=masks), []
    for place, name in enumerate(names):
        # What one name of a file can, the other can, too.
        fate = sum(map(ord, os.path.realpath(name))) % 5
        image = image_of(os.path.realpath(name))
        height, width = image.shape[:2]
        if fate == 0:
            row = empty_record(place, name, 'it is text')
        elif fate == 1:
            everything.expect(name, image)
            row = empty_record(place, name, 'it is a line', width, height)
        else:
            result = detector(InputImage(name, place, pixels=image))
            everything.add(everything.expect(name, image), result, 0.4)
            row = result.filter(0.4).to_record(list(CATEGORIES))
        rows.append(row)
    paths = [str(folder / '0.jsonl'), str(folder / '1.jsonl')]
    writers = [JsonLinesWriter(path) for path in paths]
    for row in data.draw(st.permutations(rows)):
        data.draw(st.sampled_from(writers)).append(row)
    records = sorted_lines(paths)
    path, summary = write_result(str(folder), 'coco', records, CATEGORIES, image_ids)
    with open(path) as file:
        assert file.read() == everything.text()
    content = json.loads(everything.text())
    assert summary.images == len(content['images'])
    assert summary.detections == len(content['annotations'])


def test_not_a_number(tmp_path):
    """Of a model that went wrong; and large numbers, as they were."""
    values = [float('nan'), float('-inf'), -0.0, 1e-320]
    row = empty_record(0, 'a.jpg', None, 5, 5)
    row.update(boxes=[values], labels=[3], scores=[0.1 + 0.2])
    lines = str(tmp_path / '0.jsonl')
    with JsonLinesWriter(lines) as writer:
        writer.append(row)
    path, _ = write_result(str(tmp_path), 'coco', sorted_lines([lines]), CATEGORIES, {})
    (found,) = json.loads(open(path).read())['annotations']
    assert repr(found['bbox']) == repr(values)
    assert repr(found['score']) == '0.30000000000000004'


def test_summary():
    summary = Summary(CATEGORIES)
    for labels, scores in [([90, 7, 90], [0.5, 1.0, 0.75]), ([90], [1.0]), ([], [])]:
        row = empty_record(0, 'a', None, 5, 5)
        row.update(labels=labels, scores=scores)
        summary.add(row)
    summary.add(empty_record(0, 'b', 'broken'))
    assert summary.images == 3 and summary.detections == 4
    assert summary.table() == [('triangle', 3, 2, 0.75), ('square', 1, 1, 1.0)]


def many_rows(tmp_path, number, detections=3):
    """Rows of a few images over and over."""
    mask = dict(
        size=[9, 9],
        counts=mask_utils.encode(np.asfortranarray(np.eye(9, dtype=np.uint8)))[
            'counts'
        ].decode(),
    )
    path = str(tmp_path / '0.jsonl')
    with JsonLinesWriter(path) as writer:
        for place in range(number):
            row = empty_record(place, f'folder/{place}.jpg', None, 9, 9)
            row.update(
                boxes=[[1.5, 2, 3, 4.25]] * detections,
                labels=[3] * detections,
                scores=[0.5] * detections,
                masks=[mask] * detections,
            )
            writer.append(row)
    return path


def test_parquet_is_what_the_rows_are(tmp_path, monkeypatch):
    pq = pytest.importorskip('pyarrow.parquet')
    monkeypatch.setattr(mobilevig_det.inference.writers, 'BATCH', 2)
    monkeypatch.setattr(mobilevig_det.inference.writers, 'BATCHES', 3)
    path = many_rows(tmp_path, 15)
    rows = [json.loads(line) for line in open(path)]
    more = [
        empty_record(15, 'caf\udce9.jpg', 'it is text'),
        dict(empty_record(16, 'clip.mp4', None), frames=7),
        empty_record(17, 'line.png', 'it is a line', 20000, 1),
    ]
    with JsonLinesWriter(path) as writer:
        for row in more:
            writer.append(row)
    (tmp_path / 'predictions.parquet').mkdir()
    (tmp_path / 'predictions.parquet' / '99999.parquet').write_text('of before')
    out, summary = write_result(
        str(tmp_path), 'parquet', sorted_lines([path]), CATEGORIES, {}
    )
    files = sorted(os.listdir(out))
    assert files == ['00000.parquet', '00001.parquet', '00002.parquet']
    table = pq.read_table(out)
    expected = [*rows, dict(more[0], image='caf\\xe9.jpg'), more[2]]
    assert table.to_pylist() == expected
    assert json.loads(table.schema.metadata[b'categories']) == {
        '3': 'circle',
        '7': 'square',
        '90': 'triangle',
    }
    assert summary.images == 15 and summary.detections == 45


def test_parquet_of_nothing(tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    out, _ = write_result(str(tmp_path), 'parquet', [], CATEGORIES, {})
    assert pq.read_table(out).num_rows == 0


@pytest.mark.parametrize('format', ['coco', 'parquet'])
@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'full'), KeyboardInterrupt()])
def test_the_result_of_before_stays(tmp_path, monkeypatch, format, error):
    """… where the new one can't be written, and nothing else is left."""
    if format == 'parquet':
        pytest.importorskip('pyarrow')
    path = many_rows(tmp_path, 3)
    write_result(str(tmp_path), format, sorted_lines([path]), CATEGORIES, {})

    def fail(*args):
        raise error

    def content():
        files = [file for file in tmp_path.rglob('*') if file.is_file()]
        return {str(file): file.read_bytes() for file in files}

    before = content()
    monkeypatch.setattr(Summary, 'add', fail)
    with pytest.raises(type(error)):
        write_result(str(tmp_path), format, sorted_lines([path]), CATEGORIES, {})
    assert content() == before


@pytest.mark.slow
@pytest.mark.parametrize('format', ['coco', 'parquet'])
def test_memory_is_flat(tmp_path, format):
    """20 bytes a row, some more while they are sorted, and nothing for what is in
    them; more than a batch of Parquet both times."""
    if format == 'parquet':
        pytest.importorskip('pyarrow')
    peaks = []
    for number in 2000, 20000:
        path = many_rows(tmp_path, number)
        tracemalloc.start()
        write_result(str(tmp_path), format, sorted_lines([path]), CATEGORIES, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        os.remove(path)
    assert peaks[1] - peaks[0] < 100 * 18000


def test_ids_of_no_test_set():
    cfg = Config(
        dict(
            test_dataloader=dict(
                dataset=dict(
                    type='mmdet.CocoDataset', ann_file='none.json', pipeline=[]
                )
            )
        )
    )
    assert read_test_set(CLASSES, cfg) == ([1, 2, 3], {})


def test_one_image_of_the_test_set_by_two_names(tmp_path):
    """It is listed once, with its first name and record."""
    names = ['a.jpg', 'b.jpg', './a.jpg', '../x/../c.jpg']
    everything = Everything(CATEGORIES, {os.path.realpath('a.jpg'): 70})
    path = str(tmp_path / '0.jsonl')
    with JsonLinesWriter(path) as writer:
        for place, name in enumerate(names):
            pixels = np.full((9, 7 + place, 3), 5 + place, np.uint8)
            result = PlainDetector()(InputImage(name, place, pixels=pixels))
            everything.add(everything.expect(name, pixels), result, 0)
            writer.append(result.to_record(list(CATEGORIES)))
    out, _ = write_result(
        str(tmp_path), 'coco', sorted_lines([path]), CATEGORIES, everything.image_ids
    )
    assert [i['file_name'] for i in json.load(open(out))['images']] == [
        'a.jpg',
        'b.jpg',
        '../x/../c.jpg',
    ]
    assert open(out).read() == everything.text()
