"""The parts of the benchmark: which rows there are, and that their work runs."""

import re
from argparse import Namespace
from concurrent.futures import Executor, Future

from benchmarks import (
    detectors,
    evaluation,
    graph_steps,
    images,
    operators,
    training_overhead,
)
from benchmarks.report import markdown, plot_stages, save, table

import pytest
import torch
from mmengine.logging import MMLogger


def record(monkeypatch, module, call=False):
    """Replace the timing: keep the rows and, with ``call``, run them here."""
    made = []

    def interleaved(args, part, size, makes, base, rounds=None, **facts):
        for name, make in makes.items():
            base_name = base if isinstance(base, str) else base(name)
            row = dict(part=part, size=size, name=name, base=base_name, **facts)
            made.append((row, make))
            if call:
                row_facts, run = make(args)
                row.update(row_facts, result=run())
            yield row

    monkeypatch.setattr(module, 'interleaved', interleaved)
    return made


@pytest.mark.parametrize('compiled', [False, True])
def test_operators(monkeypatch, compiled):
    made = record(monkeypatch, operators)
    monkeypatch.setattr(operators.mmcv_ext, 'is_compiled', lambda: compiled)
    args = Namespace(sizes=['64x96'], rounds=1, device='cpu', batch_size=1, amp=False)
    rows = list(operators.operator_rows(args))
    names = ['compiled mmcv', 'ours'] if compiled else ['ours']
    assert [row['name'] for row in rows] == names * 10
    assert all(row['base'] == 'compiled mmcv' for row in rows)
    if compiled:
        return
    for row, make in made:
        if 'demo' in row['size'] or '100 boxes' in row['size']:
            facts, run = make(args)
            assert facts == {}
            run()


def test_loader_and_targets(shapes_root, monkeypatch):
    """Ours passes fewer bytes through the pipe, and the mask targets are equal."""
    monkeypatch.setattr(training_overhead, 'LOADED_IMAGES', 2)
    dataset = training_overhead._training_set('mobilevig_ti_fpn_shapes')
    dataset.data_root = str(shapes_root)
    threads = torch.get_num_threads()
    try:
        ours, stock = (
            training_overhead.make_loader(Namespace(), name, dataset)[0]
            for name in ('ours', 'MMDetection')
        )
    finally:
        torch.set_num_threads(threads)
    assert ours['images'] == stock['images'] == 2
    megabytes = [float(re.search(r'[\d.]+', f['note'])[0]) for f in (ours, stock)]
    assert megabytes[0] < megabytes[1] / 5
    ours, stock = (
        training_overhead.make_targets(Namespace(device='cpu'), name, (64, 96))[1]()
        for name in ('ours', 'MMDetection')
    )
    assert torch.equal(ours, stock) and ours.shape == (128, 28, 28)


def test_logging_history_is_bounded(monkeypatch):
    record(monkeypatch, training_overhead, call=True)
    rows = list(training_overhead.logging_rows(Namespace(device='cpu', rounds=1)))
    assert [row['name'] for row in rows] == ["MMEngine's", 'ours'] * 2
    notes = [row['note'].split(': ')[1].split()[0] for row in rows]
    early, ours_early, late, ours_late = (int(n.replace(',', '')) for n in notes)
    assert late > 1000 * early > 1000 * ours_early == 1000 * ours_late


def test_images_are_the_same_rows_sequentially_and_overlapped(monkeypatch):
    made = record(monkeypatch, images, call=True)
    monkeypatch.setattr(images, 'IMAGES', 3)
    list(images.image_rows(Namespace(device='cpu', rounds=1, batch_size=2)))
    boxes = {row['name']: row['result'] for row, _ in made}
    assert boxes[images.SEQUENTIAL] == boxes[images.OVERLAPPED] > 3
    assert images.MODEL in boxes


def test_graph_steps_of_siblings(monkeypatch, tmp_path):
    """Each step has rows at each stage of its backbone that uses it, and runs there."""
    made = record(monkeypatch, graph_steps, call=True)
    monkeypatch.setattr(graph_steps, 'SIBLING_IMAGE', (64, 96))
    args = Namespace(device='cpu', rounds=1)
    assert len(list(graph_steps.sibling_rows(args))) == (3 + 4 + 3) * 4
    rows = [dict(row, seconds=[1e-3], peak_bytes=1, result=None) for row, _ in made]
    save(dict(machine=dict(device='cpu'), batch_size=1, rows=rows), tmp_path)
    assert (tmp_path / 'benchmark.png').is_file()
    sizes = [row['size'] for row in rows if row['name'] == 'GreedyViG-s']
    assert sizes[::2] == ['1x48x16x24', '1x96x8x12', '1x192x4x6', '1x384x2x3']


class ExecutorInThisProcess(Executor):
    def __init__(self, workers, context):
        assert workers == 1

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


@pytest.fixture
def log_level():
    logger = MMLogger.get_current_instance()
    before = logger.level
    yield
    logger.setLevel(before)


def test_evaluation(monkeypatch, log_level):
    monkeypatch.setattr(evaluation, 'ProcessPoolExecutor', ExecutorInThisProcess)
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
    assert 'results differ' in rows[1]['failed'] and 'failed' not in rows[0]


def detector_rows(monkeypatch, **changes):
    made = record(monkeypatch, detectors)
    args = Namespace(
        sizes=['64x96'], rounds=1, device='cpu', batch_size=1, amp=False, archs=['ti']
    )
    args.__dict__.update(changes)
    return args, list(detectors.detector_rows(args)), made


def test_detectors(monkeypatch, tmp_path):
    """Ours next to stock MMDetection; the stages of a step add up to it."""
    args, rows, made = detector_rows(monkeypatch)
    names = {row['name'] for row in rows if row['part'] == detectors.TRAINING}
    stock = detectors.stock_name()
    assert names == {
        f'MobileViG-ti, {stock}', 'MobileViG-ti', "MobileViG-ti, with_cp='act'",
        f'ResNet-50, {stock}', 'ResNet-50',
    }  # fmt: skip
    assert all(
        row['base'] == row['name'].split(',')[0] + f', {stock}'
        for row in rows
        if row['name'] != 'matrix product'
    )
    for row, make in made:
        if row['name'] != 'MobileViG-ti' or '100' in row['part']:
            continue
        facts, run = make(args)
        row.update(facts, seconds=[sum(facts['stages'].values())])
        seen = set(facts['stages'])
        assert {'backbone', 'neck', 'RPN', 'RoI heads'} <= seen
        assert seen <= set(detectors.STAGES)
        training = row['part'] == detectors.TRAINING
        assert ({'backward', 'optimizer', 'mask targets'} <= seen) == training
        assert training or facts['gmacs'] > 1
    assert 'backward' in vars(torch.Tensor)  # the methods are restored
    assert not hasattr(torch.Tensor.backward, '__wrapped__')
    done = dict(rows=[r for r in rows if 'stages' in r], batch_size=1)
    assert len(table(done)) == 2
    plot_stages(done['rows'], tmp_path / 'stages.png')
    assert (tmp_path / 'stages.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.slow
def test_stages_of_a_compiled_backbone():
    args = Namespace(sizes=['64x96'], device='cpu')
    backbone = dict(compile_cfg=dict(backend='eager', fullgraph=True))
    facts, _ = detectors.make_detector(args, 'ti', detectors.TRAINING, False, backbone)
    assert {'backbone', 'neck', 'backward'} <= set(facts['stages'])


def test_batches_and_precisions_on_a_gpu(monkeypatch):
    """The rows of one command; nothing is run."""
    _, rows, _ = detector_rows(monkeypatch, device='cuda')
    sizes = {row['size'] for row in rows}
    assert len(sizes) == 12 and '8x3x64x96, TF32' in sizes
    steps = {row['name'] for row in rows if row['part'] == detectors.TRAINING}
    assert steps > {f'MobileViG-ti, {kind}' for kind in detectors.VARIANTS}
    _, rows, _ = detector_rows(monkeypatch, device='cuda', amp=True, batch_size=4)
    assert {row['size'] for row in rows} == {'4x3x64x96, float16'}
