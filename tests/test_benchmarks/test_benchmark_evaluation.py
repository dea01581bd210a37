"""The benchmark's evaluation and log: their work, without other processes."""

import types
from argparse import Namespace

from benchmarks import evaluation, images, log_history
from benchmarks.tables import markdown

import pytest
from mmengine.logging import MMLogger


class Here:
    """A pool whose process is this one."""

    def __init__(self, number):
        assert number == 1

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def apply(self, function, args):
        return function(*args)


@pytest.fixture
def level():
    logger = MMLogger.get_current_instance()
    before = logger.level
    yield
    logger.setLevel(before)


def test_evaluation(monkeypatch, level):
    monkeypatch.setattr(evaluation, 'PROCESSES', types.SimpleNamespace(Pool=Here))
    monkeypatch.setattr(evaluation, 'DETECTIONS', 12)
    monkeypatch.setattr(evaluation, 'DIFFERENT', 2)
    seen = []
    real = evaluation.measure
    monkeypatch.setattr(
        evaluation, 'measure', lambda *args: seen.append(real(*args)) or seen[-1]
    )
    args = Namespace(images=3, rounds=6)
    rows = list(evaluation.evaluation_rows(args))
    assert [row['size'] for row in rows] == [
        f'3 images x 12, {kind}' for kind in ('boxes', 'boxes and masks') for _ in 'ab'
    ]
    assert not any('failed' in row for row in rows)
    assert [len(row['seconds']) for row in rows] == [2] * 4
    figures = seen[-1][2]
    assert 0 < figures['coco/bbox_mAP_50'] < 1 and 0 < figures['coco/segm_mAP_50'] < 1
    text = markdown(dict(rows=rows, machine=dict(device='cpu'), batch_size=1))
    assert '| ours |' in text and 'failed' not in text

    monkeypatch.setattr(
        evaluation, 'measure', lambda name, *args: (1.0, 1, dict(ap=name == 'ours'))
    )
    rows = list(evaluation.evaluation_rows(args))
    assert 'other figures' in rows[1]['failed'] and 'failed' not in rows[0]


def test_log_history(monkeypatch):
    made = []

    def in_turns(rows, makes, rounds, args):
        for row, make in zip(rows, makes):
            facts, run = make(args)
            run()
            made.append(int(facts['note'].split(': ')[1].split()[0].replace(',', '')))
            yield row | facts

    monkeypatch.setattr(log_history, 'in_turns', in_turns)
    rows = list(log_history.logging_rows(Namespace(device='cpu', rounds=1)))
    assert [row['name'] for row in rows] == ["MMEngine's", 'ours'] * 2
    early, ours_early, late, ours_late = made
    assert late > 1000 * early > 1000 * ours_early == 1000 * ours_late


def test_images(monkeypatch):
    """All three see the same images; two make the same rows."""
    found = {}

    def in_turns(rows, makes, rounds, args):
        for row, make in zip(rows, makes):
            facts, found[row['name']] = make(args)
            yield row | facts

    monkeypatch.setattr(images, 'in_turns', in_turns)
    monkeypatch.setattr(images, 'IMAGES', 3)
    args = Namespace(device='cpu', rounds=1, batch_size=2)
    for row in images.image_rows(args):
        found[row['name']] = found[row['name']]()
    assert found[images.NAIVE] == found[images.OVERLAPPED] > 3
    assert images.MODEL in found
