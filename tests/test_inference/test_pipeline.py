"""Images in threads give what they give one after the other."""

import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mobilevig_det.config import load_config
from mobilevig_det.inference import pipeline as pipeline_module
from mobilevig_det.inference.images import InputImage
from mobilevig_det.inference.models import load_predictor
from mobilevig_det.inference.pipeline import Pipeline, model_copies
from mobilevig_det.inference.predictors import MAX_WAITING, Prepared, SizeBucketer

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
    cfg = load_config(str(folder / 'config.py'))
    detector = load_predictor(cfg, str(folder / 'epoch_1.pth'), 'cpu', 0.7)
    detector.model.roi_head.test_cfg.max_per_img = 10
    return detector


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Images of four sizes, two broken, one a line."""
    folder = tmp_path_factory.mktemp('files')
    files = {
        f'{i}.png': encode(picture(*SIZES[i * i % 4 if i % 3 else 3]).rotate(i), 'PNG')
        for i in range(8)
    }
    items = list(files.items())
    items.insert(4, ('text.jpg', b'text, not an image'))
    items.insert(5, ('line.png', encode(picture(20000, 1), 'PNG')))
    items.insert(9, ('cut.png', files['0.png'][:99]))
    images = []
    for place, (name, data) in enumerate(items):
        (folder / name).write_bytes(data)
        images.append(InputImage(str(folder / name), place))
    return images


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


def name_of(image):
    return Path(image.name).name


def run(detector, images, batch_size, **more):
    """What a pipeline of its own gives: records."""
    with Pipeline(detector, batch_size) as pipeline:
        with closing(pipeline.run(images, **more)) as results:
            yield from (result.to_record(IDS) for result in results)


def one_after_the_other(detector, images, batch_size):
    """Records by name, without threads."""
    results, bucketer, batches = [], SizeBucketer(batch_size), []
    for image in images:
        prepared = detector.prepare(image)
        if isinstance(prepared, Prepared):
            batches += bucketer.add(prepared)
        else:
            results.append(prepared)
    for batch in (*batches, *bucketer.rest()):
        results += detector.predict_batch(batch)
    return {result.name: result.to_record(IDS) for result in results}


def assert_same(row, expected):
    for key in 'image', 'width', 'height', 'labels', 'error':
        assert row[key] == expected[key]
    assert np.allclose(row['scores'], expected['scores'], atol=1e-4)
    if expected['boxes']:
        assert np.allclose(row['boxes'], expected['boxes'], atol=1e-2)
    for mask, other in zip(row['masks'] or (), expected['masks'] or (), strict=True):
        assert (mask_utils.decode(mask) != mask_utils.decode(other)).mean() < 1e-3


@pytest.mark.parametrize('threads', [3], indirect=True)
def test_records_do_not_depend_on_threads_and_batches(detector, files, threads):
    expected = one_after_the_other(detector, files, 2)
    assert sum(len(row['boxes']) for row in expected.values()) > 20
    assert sum(row['error'] is not None for row in expected.values()) == 3
    for batch_size in 1, 2, 3, None:
        found = list(run(detector, files, batch_size))
        assert sorted(row['image'] for row in found) == sorted(expected)
        for row in found:
            assert_same(row, expected[row['image']])


@pytest.mark.parametrize('batch_size', [1, 2, 3, 100])
def test_batches_are_those_without_threads(threads, files, batch_size, monkeypatch):
    """However long each part takes; and images of one size stay in order."""
    monkeypatch.setattr(pipeline_module, 'MAX_BATCH_WAIT_S', 60)
    batches = defaultdict(list)

    class Slow(PlainDetector):
        def prepare(self, image):
            time.sleep(0.001 * (image.place * 3 % 5))
            return super().prepare(image)

        def predict_batch(self, batch, models=None):
            names = [prepared.source.name for prepared in batch]
            batches[models is None].append(names)
            time.sleep(0.001 * (len(batches[False]) * 7 % 5))
            return super().predict_batch(batch)

    expected = one_after_the_other(Slow(), files, batch_size)
    found = list(run(Slow(), files, batch_size))
    assert sorted(batches[False]) == sorted(batches[True])
    assert {row['image']: row for row in found} == expected
    by_size = defaultdict(list)
    for row in found:
        by_size[row['width'], row['height']].append(row['place'])
    del by_size[None, None]
    for of_one_size in by_size.values():
        assert of_one_size == sorted(of_one_size)


def test_ordered_results_have_the_order_of_the_images(files, threads):
    images = [replace(image, place=i) for i, image in enumerate(files * 9)]
    found = run(PlainDetector(), images, 3, ordered=True)
    assert [row['place'] for row in found] == list(range(len(images)))


def test_one_image_of_a_rare_size_does_not_wait_for_the_end(files):
    """Nor do the results after it pile up."""
    rare, common = files[0], [files[1]] * 500
    started = []

    def images():
        for place, image in enumerate([rare, *common]):
            started.append(place)
            yield replace(image, place=place)

    with closing(run(PlainDetector(), images(), 3, ordered=True)) as results:
        next(results)
        assert len(started) < MAX_WAITING + 3 * 6 + pipeline_module.MAX_READERS + 9


def test_a_slow_source_holds_nothing_back(files):
    """A record is there before the next image comes, with a batch that isn't full."""
    found, in_time = [], []

    def images():
        yield files[0]
        end = time.monotonic() + 20
        while not found and time.monotonic() < end:
            time.sleep(0.01)
        in_time.append(bool(found))
        yield files[1]

    for row in run(PlainDetector(), images(), 8):
        found.append(row['image'])
    assert found == [files[0].name, files[1].name] and in_time == [True]


def test_few_images_are_read_ahead(files, threads):
    started = []

    def images():
        for i in range(1000):
            started.append(i)
            yield files[0]

    with closing(run(PlainDetector(), images(), 2)) as results:
        for _ in range(5):
            next(results)
        time.sleep(0.2)
        assert len(started) < 5 + 2 * 2 * 4 + 2 * pipeline_module.MAX_READERS
        before = len(started)
        time.sleep(0.1)
        assert len(started) == before


class Mistake(Exception):
    pass


@pytest.mark.parametrize('where', ['images', 'prepare', 'model', 'drawing'])
@pytest.mark.parametrize('error', [Mistake, KeyboardInterrupt, SystemExit])
def test_an_error_in_a_thread_is_raised_as_itself(where, error, files, threads):
    """What was predicted before it comes first, in order; the threads end."""
    bad = files[7].name

    def fail(at, names=(bad,)):
        if at == where and bad in names:
            raise error('of its own')

    def images():
        yield from files[:3]
        fail('images')
        yield from files[3:]

    class Detector(PlainDetector):
        def prepare(self, image):
            fail('prepare', [image.name])
            return super().prepare(image)

        def predict_batch(self, batch, models=None):
            fail('model', [prepared.source.name for prepared in batch])
            return super().predict_batch(batch)

    class Drawings:
        def draw(self, result):
            fail('drawing', [result.name])

    found = []
    with pytest.raises(error, match='of its own'):
        with Pipeline(Detector(), 1, Drawings()) as pipeline:
            with closing(pipeline.run(images())) as results:
                found += (result.source.place for result in results if not result.error)
    assert found == [0, 1, 2, 3, 6][: len(found)]


@pytest.mark.parametrize('taken', [0, 1, 4])
def test_a_run_can_be_closed_early(taken, files, threads):
    def endless():
        while True:
            yield from files

    results = run(PlainDetector(), endless(), 2)
    for _ in range(taken):
        next(results)
    results.close()


def test_many_runs_share_threads(files, threads):
    """Those that end early leave nothing to the next ones."""
    plain = PlainDetector()
    expected = one_after_the_other(plain, files, 2)
    seen = set()

    class Drawings:
        def draw(self, result):
            seen.add(threading.current_thread())

    with Pipeline(plain, 2, Drawings()) as pipeline:
        for taken in 1, None, 4, None:
            with closing(pipeline.run(files * 9)) as results:
                for result in islice(results, taken):
                    assert result.to_record(IDS) == expected[result.name]
        assert len(seen) <= pipeline.readers + pipeline.workers


def test_no_images(detector, threads):
    assert list(run(detector, [], 2)) == []


def test_model_copies_share_their_weights(detector, threads):
    with model_copies(detector) as (models, workers):
        assert workers == threads
        all_models = [models.get() for _ in range(workers)]
        assert all_models[0] is None  # the predictor's own
        own = detector.model
        for model in all_models[1:]:
            assert model is not own
            for a, b in (
                (model.state_dict(), own.state_dict()),
                (dict(model.named_buffers()), dict(own.named_buffers())),
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
def test_small_images_share_a_batch(read_as, shown_as, batch):
    bucketer = SizeBucketer(None)
    data = dict(inputs=torch.zeros(3, *shown_as, dtype=torch.uint8))
    pixels = np.empty((*read_as, 3), np.uint8)
    one = Prepared(
        InputImage('a'), pixels, pixels.shape[:2], data, (1.0, 1.0), shown_as
    )
    for _ in range(2):
        assert [list(bucketer.add(one)) for _ in range(batch - 1)] == [[]] * (batch - 1)
        assert list(bucketer.add(one)) == [[one] * batch]
