"""The benchmark's smallest setting: it runs, and its table can be read."""

import csv
import json
import shlex
import subprocess
import sys
from argparse import Namespace

from benchmarks import detectors, loading, operators
from benchmarks.authors import Authors, definition
from benchmarks.backbones import build
from benchmarks.measuring import peak_memory
from benchmarks.plots import draw_stages
from benchmarks.stages import STAGES
from benchmarks.tables import table
from mobilevig_det import MobileViG

import pytest
import torch
from page import code_blocks
from reference import naive_max_relative
from tool import TOOLS, load, run

SMALLEST = [
    '--archs',
    'ti',
    '--rivals',
    '--sizes',
    '32x64',
    '--graph-shapes',
    '2x40x25x42',
    '--rounds',
    '1',
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('benchmark')
    # A process of its own, which those that it starts can import.
    subprocess.run(
        [sys.executable, TOOLS / 'benchmark.py', *SMALLEST, '--out-dir', folder],
        check=True,
    )
    return folder


def test_table(folder):
    with open(folder / 'benchmark.csv') as file:
        rows = list(csv.DictReader(file))
    assert {(row['what'], row['name']) for row in rows} == {
        *(
            (f'graph step, {kind}', name + layout)
            for kind in ('forward', 'forward + backward')
            for name in ('definition', 'ours')
            for layout in ('', ', channels-last')
        ),
        ('inference', 'matrix product'),
        *(
            ('inference', f'MobileViG-ti{kind}')
            for kind in (', authors', '', ', fused')
        ),
        *(
            ('training step', f'MobileViG-ti{kind}')
            for kind in (', authors', '', ", with_cp='act'")
        ),
    }
    assert all(float(row['median ms']) > 0 for row in rows)
    inference = [row for row in rows if row['what'] == 'inference']
    assert {row['params M'] for row in inference[1:3]} == {'4.11'}
    assert inference[0]['x ceiling'] == '1.00'
    # A tenth of the memory: the definition keeps two maps a neighbour.
    ours = [
        row
        for row in rows
        if row['what'].endswith('+ backward') and 'ours' in row['name']
    ]
    assert len(ours) == 2
    for row in ours:
        assert float(row['x base'].split('(')[1][:-1]) > 5
    markdown = (folder / 'benchmark.md').read_text().splitlines()
    assert sum(line.startswith('|') for line in markdown) == len(rows) + 2
    assert 'threads' in markdown[0] and torch.__version__ in markdown[0]


@pytest.mark.slow
def test_what_fails_is_in_the_table(tmp_path):
    subprocess.run(
        [
            sys.executable,
            TOOLS / 'benchmark.py',
            *SMALLEST,
            '--parts',
            'inference',
            '--sizes',
            '16x16',
            '--out-dir',
            tmp_path,
        ],
        check=True,
    )
    with open(tmp_path / 'benchmark.csv') as file:
        times = {row['name']: row['median ms'] for row in csv.DictReader(file)}
    for name in ('MobileViG-ti', 'MobileViG-ti, fused'):
        assert times.pop(name).startswith('failed: MobileViG needs images of')
    assert set(times) == {'matrix product', 'MobileViG-ti, authors'}
    assert all(float(time) > 0 for time in times.values())


def test_drawn_again_from_its_file(folder, tmp_path):
    assert (
        run(
            'benchmark', '--from-file', folder / 'benchmark.json', '--out-dir', tmp_path
        )
        == 0
    )
    for name in ('benchmark.md', 'benchmark.csv', 'benchmark.json'):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    for name in ('benchmark.png', 'growth.png'):
        assert (tmp_path / name).read_bytes()[:4] == b'\x89PNG'


def test_what_it_compares_with():
    x = torch.randn(1, 3, 5, 8)
    assert torch.equal(definition(x), naive_max_relative(x, 2))
    images = torch.rand(1, 3, 64, 96)
    ours, authors = (build(cls, 'ti').eval() for cls in (MobileViG, Authors))
    with torch.no_grad():
        for out, want in zip(ours(images), authors(images)):
            assert (out - want).abs().max() <= 1e-5 * want.abs().max()


def test_peak_memory_counts_what_is_there_at_once():
    def run_():
        a = torch.zeros(1 << 20)
        b = a + 1
        del a
        return b + 1

    more = peak_memory(run_, 'cpu') - 2 * 4 * (1 << 20)
    assert 0 <= more < 1000  # the scalars


def test_wrong_arguments(tmp_path):
    assert 'like 224x224' in run('benchmark', '--sizes', '224')
    (tmp_path / 'result.json').write_text(json.dumps({'rows': []}))
    assert 'not a benchmark.json' in run(
        'benchmark', '--from-file', tmp_path / 'result.json'
    )
    if not torch.cuda.is_available():
        assert 'no GPU' in run('benchmark', '--device', 'cuda')


def test_printed_commands_parse():
    tool = load('benchmark')
    (block,) = code_blocks(TOOLS.parent / 'docs' / 'benchmark.md', 'shell')
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        assert words[:2] == ['python', 'tools/benchmark.py']
        tool.parse_args(words[2:])


@pytest.mark.parametrize('compiled', [False, True])
def test_operators(monkeypatch, compiled):
    """Beside the compiled ones, where there are such; the work itself runs."""
    made = []

    def in_turns(rows, makes, rounds, args):
        made.extend(zip(rows, makes))
        return rows

    monkeypatch.setattr(operators, 'in_turns', in_turns)
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


@pytest.mark.parametrize('parts', [['loader,targets'], ['loader', 'targets']])
def test_parts(parts):
    parse = load('benchmark').parse_args
    assert parse(['--parts', *parts]).parts == ['loader', 'targets']
    assert parse(['--parts', '--detector']).parts == []
    assert parse([]).sizes == ['224x224', '800x1216']
    assert parse(['--device', 'cuda']).sizes[-1] == '800x1344'
    with pytest.raises(SystemExit):
        parse(['--parts', 'loader,target'])


def test_loader_and_targets(shapes_root, monkeypatch):
    """On little data: ours passes fewer bytes, and the targets are equal."""
    monkeypatch.setattr(loading, 'IMAGES', 2)
    data = dict(
        data_root=str(shapes_root),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('circle', 'square', 'triangle')),
    )
    threads = torch.get_num_threads()
    try:
        ours, theirs = (
            loading.make_loader(Namespace(), name, data)[0]
            for name in ('ours', 'MMDetection')
        )
    finally:
        torch.set_num_threads(threads)
    assert ours['images'] == theirs['images'] == 2
    assert ours['pipe_bytes'] < theirs['pipe_bytes'] / 5
    ours, theirs = (
        loading.make_targets(Namespace(device='cpu'), name, (64, 96))[1]()
        for name in ('ours', 'MMDetection')
    )
    assert torch.equal(ours, theirs) and ours.shape == (128, 28, 28)


def caught(monkeypatch, **changes):
    """What would be measured of whole detectors."""
    made = []

    def in_turns(rows, makes, rounds, args):
        made.extend(zip(rows, makes))
        return rows

    monkeypatch.setattr(detectors, 'in_turns', in_turns)
    args = Namespace(
        sizes=['64x96'], rounds=1, device='cpu', batch_size=1, amp=False, archs=['ti']
    )
    args.__dict__.update(changes)
    return args, list(detectors.detector_rows(args)), made


def test_detectors(monkeypatch, tmp_path):
    """Stock beside ours, with the stages of a step, which add up to it."""
    args, rows, made = caught(monkeypatch)
    names = {row['name'] for row in rows if row['part'] == detectors.TRAINING}
    stock = detectors.stock()
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
        assert facts['activity'] == {}  # of a GPU's
        seen = set(facts['stages'])
        assert seen <= set(STAGES) and {'backbone', 'neck', 'RPN', 'RoI heads'} <= seen
        training = row['part'] == detectors.TRAINING
        assert ({'backward', 'optimizer', 'mask targets'} <= seen) == training
        assert training or facts['gmacs'] > 1
    done = dict(rows=[r for r in rows if 'stages' in r], batch_size=1)
    assert len(table(done)) == 2
    draw_stages(done, tmp_path / 'stages.png')
    assert (tmp_path / 'stages.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.slow
def test_compiled_backbone_has_stages():
    args = Namespace(sizes=['64x96'], device='cpu')
    backbone = dict(compile_cfg=dict(backend='eager', fullgraph=True))
    facts, _ = detectors.make_detector(args, 'ti', detectors.TRAINING, False, backbone)
    assert {'backbone', 'neck', 'backward'} <= set(facts['stages'])


def test_detectors_on_a_gpu(monkeypatch):
    """Made ready, not run: the sizes and precisions of one command."""
    _, rows, _ = caught(monkeypatch, device='cuda')
    sizes = {row['size'] for row in rows}
    assert len(sizes) == 12 and '8x3x64x96, TF32' in sizes
    steps = {row['name'] for row in rows if row['part'] == detectors.TRAINING}
    assert steps > {f'MobileViG-ti, {kind}' for kind in detectors.ON_GPUS}
    _, rows, _ = caught(monkeypatch, device='cuda', amp=True, batch_size=4)
    assert {row['size'] for row in rows} == {'4x3x64x96, float16'}
