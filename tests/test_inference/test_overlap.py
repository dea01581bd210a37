"""Reading, models and rows at once, beside one after the other."""

import threading
import time
from collections import defaultdict
from contextlib import closing
from itertools import islice

import mobilevig_det.inference.overlap as overlap
from mobilevig_det.datasets.image_file import ImageFileError, decode_image
from mobilevig_det.inference.detection_rows import error_row, found_row
from mobilevig_det.inference.inferencer import (
    Inferencer,
    NoPicture,
    Picture,
    Prepared,
    SameSize,
)
from mobilevig_det.inference.overlap import overlapped

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import tiny_detector
import torch
from bad_images import encode, picture
from plain_detector import PlainDetector

IDS = [90, 3, 7]
SIZES = [(160, 120), (120, 160), (96, 64), (157, 120)]


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    tiny_detector.make(folder)
    inferencer = Inferencer(
        str(folder / 'config.py'),
        str(folder / 'epoch_1.pth'),
        device='cpu',
        show_progress=False,
    )
    inferencer.model.roi_head.test_cfg.max_per_img = 10
    return inferencer


@pytest.fixture(scope='module')
def files():
    """Names and contents of images of four sizes, two broken, one a line."""
    files = {
        f'{i}.png': encode(picture(*SIZES[i * i % 4 if i % 3 else 3]).rotate(i), 'PNG')
        for i in range(8)
    }
    items = list(files.items())
    items.insert(4, ('text.jpg', b'text, not an image'))
    items.insert(5, ('line.png', encode(picture(20000, 1), 'PNG')))
    items.insert(9, ('cut.png', files['0.png'][:99]))
    return items


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def read(item):
    name, data = item
    try:
        return Picture(name, decode_image(data), 0)
    except ImageFileError as error:
        return error_row(name, str(error))


def finish(found):
    if isinstance(found, NoPicture):
        return error_row(found.picture.name, found.reason)
    return found_row(found, IDS, 0.7)


def one_after_the_other(detector, items, batch_size):
    """Rows by name, from the definition."""
    rows = {row['image']: row for row in map(read, items) if isinstance(row, dict)}
    pictures = [p for p in map(read, items) if isinstance(p, Picture)]
    for found in detector.predict(pictures, batch_size):
        rows[found.picture.name] = finish(found)
    return rows


def assert_same(row, expected):
    for key in 'image', 'width', 'height', 'labels', 'error':
        assert row[key] == expected[key]
    assert np.allclose(row['scores'], expected['scores'], atol=1e-4)
    if expected['boxes']:
        assert np.allclose(row['boxes'], expected['boxes'], atol=1e-2)
    for mask, other in zip(row['masks'] or (), expected['masks'] or (), strict=True):
        assert (mask_utils.decode(mask) != mask_utils.decode(other)).mean() < 1e-3


@pytest.mark.parametrize('threads', [3], indirect=True)
def test_the_same_rows(detector, files, threads):
    expected = one_after_the_other(detector, files, 2)
    assert sum(len(row['boxes']) for row in expected.values()) > 20
    assert sum(row['error'] is not None for row in expected.values()) == 3
    for batch_size in 1, 2, 3:
        found = list(overlapped(detector, files, read, finish, batch_size))
        assert sorted(row['image'] for row in found) == sorted(expected)
        for row in found:
            assert_same(row, expected[row['image']])


@pytest.mark.parametrize('batch_size', [1, 2, 3, 100])
def test_the_same_batches_in_order(threads, files, batch_size, monkeypatch):
    """Those of predict(), however long each part takes; all of one size in order."""
    monkeypatch.setattr(overlap, 'PATIENCE', 60)
    batches = defaultdict(list)

    class Detector(PlainDetector):
        def look_at(self, batch, model=None):
            names = [prepared.picture.name for prepared in batch]
            batches[threading.current_thread() is threading.main_thread()].append(names)
            time.sleep(0.001 * (len(batches[False]) * 7 % 5))
            return super().look_at(batch)

    def slow(item):
        time.sleep(0.001 * (len(item[1]) * 3 % 5))
        return read(item)

    expected = one_after_the_other(Detector(), files, batch_size)
    found = list(overlapped(Detector(), files, slow, finish, batch_size))
    assert sorted(batches[False]) == sorted(batches[True])
    assert {row['image']: row for row in found} == expected
    places = {name: i for i, (name, _) in enumerate(files)}
    by_size = defaultdict(list)
    for row in found:
        by_size[row['width'], row['height']].append(places[row['image']])
    del by_size[None, None]
    for of_one_size in by_size.values():
        assert of_one_size == sorted(of_one_size)


def test_a_slow_source_holds_nothing_back(files):
    """A row is there before the next name comes, with a batch that isn't full."""
    found, in_time = [], []

    def items():
        yield files[0]
        end = time.monotonic() + 20
        while not found and time.monotonic() < end:
            time.sleep(0.01)
        in_time.append(bool(found))
        yield files[1]

    for row in overlapped(PlainDetector(), items(), read, finish, 8):
        found.append(row['image'])
    assert found == [files[0][0], files[1][0]] and in_time == [True]


def test_few_are_read_ahead(files, threads):
    """However many there are."""
    started = []

    def items():
        for i in range(1000):
            started.append(i)
            yield (f'{i}.png', files[0][1])

    with closing(overlapped(PlainDetector(), items(), read, finish, 2)) as results:
        for _ in range(5):
            next(results)
        time.sleep(0.2)
        assert len(started) < 5 + 2 * 2 * 4 + 2 * overlap.MOST_THREADS
    before = len(started)
    time.sleep(0.1)
    assert len(started) == before


class Mistake(Exception):
    pass


@pytest.mark.parametrize('where', ['items', 'read', 'prepare', 'model', 'finish'])
@pytest.mark.parametrize('error', [Mistake, KeyboardInterrupt, SystemExit])
def test_an_error_is_itself(where, error, files, threads):
    """What was seen before it comes first, in order; the threads end."""
    names = [name for name, data in files if isinstance(read((name, data)), Picture)]
    bad = names[5]

    def fail(at):
        if at == where:
            raise error('of its own')

    def items():
        yield from files[:3]
        fail('items')
        yield from files[3:]

    def read_until(item):
        if item[0] == bad:
            fail('read')
        return read(item)

    class Detector(PlainDetector):
        def prepare(self, picture):
            if picture.name == bad:
                fail('prepare')
            return super().prepare(picture)

        def look_at(self, batch, model=None):
            if bad in [prepared.picture.name for prepared in batch]:
                fail('model')
            return super().look_at(batch)

    def finish_until(found):
        if found.picture.name == bad:
            fail('finish')
        return finish(found)

    found = []
    with pytest.raises(error, match='of its own'):
        for row in overlapped(Detector(), items(), read_until, finish_until, 1):
            if row['error'] is None:
                found.append(row['image'])
    assert found == [name for name in names if name != 'line.png'][: len(found)]
    assert len(found) <= 5


@pytest.mark.parametrize('taken', [0, 1, 4])
def test_closed_early(taken, files, threads):
    def endless():
        while True:
            yield from files

    results = overlapped(PlainDetector(), endless(), read, finish, 2)
    for _ in range(taken):
        next(results)
    results.close()


def test_many_runs_share_threads(files, threads):
    """Those that end early leave nothing to the next ones."""
    plain = PlainDetector()
    expected = one_after_the_other(plain, files, 2)
    seen = set()

    def finish_here(found):
        seen.add(threading.current_thread())
        return finish(found)

    with overlap.threads_of(plain) as shared:
        for taken in 1, None, 4, None:
            results = overlapped(plain, files * 9, read, finish_here, 2, shared)
            with closing(results):
                for row in islice(results, taken):
                    assert row == expected[row['image']]
        assert len(seen) <= shared.readers + shared.workers


def test_no_items(detector, threads):
    assert list(overlapped(detector, [], read, finish, 2)) == []


def test_models_share_their_weights(detector, threads):
    with overlap._models(detector) as (models, workers):
        assert workers == threads
        all_models = [models.get() for _ in range(workers)]
        assert all_models[0] is detector.model
        for model in all_models[1:]:
            assert model is not detector.model
            for a, b in (
                (model.state_dict(), detector.model.state_dict()),
                (dict(model.named_buffers()), dict(detector.model.named_buffers())),
            ):
                assert a.keys() == b.keys()
                assert all(a[key].data_ptr() == b[key].data_ptr() for key in a)


@pytest.mark.parametrize(
    ('read_as', 'shown_as', 'batch'),
    [
        ((128, 128), (128, 128), 8),
        ((1, 1), (32, 32), 8),
        ((480, 640), (480, 640), 3),
        ((480, 640), (800, 1067), 1),
        ((800, 1344), (800, 1344), 1),
        ((733, 733), (733, 733), 2),
        ((3000, 4000), (128, 128), 1),  # many of them would fill the memory
        ((2000, 1000), (1333, 667), 1),
    ],
)
def test_small_pictures_share_a_batch(read_as, shown_as, batch):
    groups = SameSize(None)
    data = dict(inputs=torch.zeros(3, *shown_as, dtype=torch.uint8))
    image = np.empty((*read_as, 3), np.uint8)
    one = Prepared(Picture('a', image, 0), data, None, shown_as)
    for _ in range(2):
        assert [groups.add(one) for _ in range(batch - 1)] == [None] * (batch - 1)
        assert groups.add(one) == [one] * batch
