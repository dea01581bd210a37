"""Memory: threads share a budget, and what doesn't fit is tried again alone."""

import queue
import random
import threading
import time

from mobilevig_det.datasets import ImageFileError
from mobilevig_det.inference import images, predictors
from mobilevig_det.inference.images import InputImage, MemoryBudget, is_memory_error
from mobilevig_det.inference.predictors import Predictor

import cv2
import mmcv
import numpy as np
import pytest
import torch
from bad_images import encode, picture
from mmengine.structures import BaseDataElement
from plain_detector import PlainDetector
from torch import nn

ERRORS = [
    MemoryError('of Python'),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
]


@pytest.fixture
def budget(monkeypatch):
    """A budget of this test's own."""
    budget = MemoryBudget(1000)
    for module in images, predictors:
        monkeypatch.setattr(module, 'MEMORY', budget)
    return budget


def test_threads_never_use_more_than_the_budget_and_large_ones_get_their_turn():
    budget, used, most = MemoryBudget(100), 0, []
    lock = threading.Lock()
    sizes = [1, 10, 30, 60, 100, 5000] * 10
    random.Random(0).shuffle(sizes)

    def work(size):
        nonlocal used
        with budget.lend(size):
            with lock:
                used += min(size, 100)
                most.append(used)
            time.sleep(0.001)
            with lock:
                used -= min(size, 100)

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == len(sizes) and max(most) <= 100 and used == 0


def test_an_error_gives_the_memory_back():
    budget = MemoryBudget(10)
    for _ in range(3):
        with pytest.raises(KeyError), budget.lend(10):
            raise KeyError


def test_large_images_are_decoded_one_after_the_other(budget, tmp_path, monkeypatch):
    """As many at once as the budget has room for their pixels, whatever their files
    take; the header says how many there are."""
    paths = [str(tmp_path / f'{i}.png') for i in range(6)]
    for path in paths:
        picture(16, 5).save(path)  # 240 bytes of pixels
    running, most = 0, 0
    lock = threading.Lock()
    decode = images.decode_image

    def slow(data):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return decode(data)

    monkeypatch.setattr(images, 'decode_image', slow)
    threads = [threading.Thread(target=InputImage(path).read) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 2


def failing(detector, errors):
    """Have the pipeline of a detector raise errors, one a call."""
    real, errors = detector.pipeline, iter(errors)

    def pipeline(data):
        error = next(errors, None)
        if error is not None:
            raise error
        return real(data)

    detector.pipeline = pipeline
    return detector


@pytest.mark.parametrize('error', ERRORS)
def test_an_image_that_found_no_memory_is_prepared_again_alone(budget, error):
    source = InputImage('a', pixels=np.zeros((4, 5, 3), np.uint8))
    prepared = failing(PlainDetector(), [error]).prepare(source)
    assert prepared.size == (4, 5)
    result = failing(PlainDetector(), [error] * 2).prepare(source)
    assert result.error.startswith('it needs more memory than there is (')
    assert str(error) in result.error


def test_no_memory_for_decoding_is_not_taken_for_damage(budget, tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(encode(picture(9, 9), 'PNG'))
    source = InputImage(str(tmp_path / 'a.png'))
    real, calls = mmcv.imfrombytes, []

    def full(data):
        calls.append(budget._used)
        if len(calls) == 1:
            error = cv2.error('Failed to allocate 9 bytes')
            error.code, error.err = cv2.Error.StsNoMem, 'Failed to allocate 9 bytes'
            raise error
        return real(data)

    monkeypatch.setattr(mmcv, 'imfrombytes', full)
    assert PlainDetector().prepare(source).size == (9, 9)
    assert calls == [2 * 3 * 81, budget.limit]  # alone


class Model(nn.Module):
    """Fails with more than one image, or while somebody else runs."""

    def __init__(self, error, always=False):
        super().__init__()
        self.error, self.always = error, always
        self.running = 0
        self.data_preprocessor = None

    def test_step(self, data):
        self.running += 1
        try:
            time.sleep(0.05)
            if self.running > 1 or len(data['inputs']) > 1 or self.always:
                raise self.error
            return [BaseDataElement(value=torch.tensor(1))]
        finally:
            self.running -= 1


class Value(Predictor):
    def _result(self, prepared, sample):
        return self._failed(prepared.source, 'fine', prepared.size)


@pytest.mark.parametrize('error', ERRORS)
def test_a_model_that_found_no_memory_runs_again_alone(budget, error):
    model = Model(error)
    predictor = Value(
        model, lambda data: dict(inputs=torch.from_numpy(data['img'])), ()
    )
    models = queue.SimpleQueue()
    for _ in range(3):
        models.put(model)
    pixels = np.zeros((4, 4, 3), np.uint8)
    found = []

    def predict(name):
        batch = [
            predictor.prepare(InputImage(f'{name}{i}', i, pixels=pixels))
            for i in (0, 1)
        ]
        found.extend(predictor.predict_batch(batch, models))

    threads = [threading.Thread(target=predict, args=(name,)) for name in 'abc']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(result.name for result in found) == [
        'a0',
        'a1',
        'b0',
        'b1',
        'c0',
        'c1',
    ]
    assert all(result.error == 'fine' for result in found)
    model.always = True
    (result,) = predictor.predict_batch(
        [predictor.prepare(InputImage('d', pixels=pixels))]
    )
    assert result.error.startswith('the model needs more memory than there is (')
    assert (result.height, result.width) == (4, 4)


def test_other_errors_are_not_repeated(budget):
    assert not is_memory_error(RuntimeError('shape mismatch'))
    assert not is_memory_error(ImageFileError('cut off'))
    with pytest.raises(RuntimeError, match='shape'):
        predictor = Value(
            Model(RuntimeError('shape'), True),
            lambda data: dict(inputs=torch.from_numpy(data['img'])),
            (),
        )
        image = InputImage('a', pixels=np.zeros((4, 4, 3), np.uint8))
        predictor.predict_batch([predictor.prepare(image)])


def test_pixels_of_very_large_images_do_not_wait_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(predictors, 'MAX_PIXELS', 99)
    for size, kept in (((9, 11), True), ((10, 10), False)):
        picture(*size).save(tmp_path / 'a.png')
        prepared = PlainDetector().prepare(InputImage(str(tmp_path / 'a.png')))
        assert (prepared.pixels is not None) == kept
        assert prepared.size == size[::-1]
