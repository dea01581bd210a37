"""tools/benchmark.py: its smallest setting, its files and its arguments."""

import csv
import json
import shlex
import subprocess
import sys

from benchmarks.command import PARTS
from benchmarks.interleaved import peak_memory

import pytest
import torch
from markdown_pages import code_blocks
from tool import TOOLS, load, run

SMALLEST = [
    '--archs',
    'ti',
    '--baselines',
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
    # In its own process, because the processes of the rows import its main module.
    subprocess.run(
        [sys.executable, TOOLS / 'benchmark.py', *SMALLEST, '--out-dir', folder],
        check=True,
    )
    return folder


def test_table_has_every_row(folder):
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
    # Compared with the definition, which keeps two maps per neighbour.
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
def test_failures_are_in_the_table(tmp_path):
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


def test_from_file_writes_the_same_files(folder, tmp_path):
    arguments = ['--from-file', folder / 'benchmark.json', '--out-dir', tmp_path]
    assert run('benchmark', *arguments) == 0
    for name in ('benchmark.md', 'benchmark.csv', 'benchmark.json'):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    for name in ('benchmark.png', 'growth.png'):
        assert (tmp_path / name).read_bytes()[:4] == b'\x89PNG'


def test_peak_memory_counts_simultaneous_tensors():
    def run_():
        a = torch.zeros(1 << 20)
        b = a + 1
        del a
        return b + 1

    more = peak_memory(run_, 'cpu') - 2 * 4 * (1 << 20)
    assert 0 <= more < 1000  # the scalars


def test_wrong_arguments_are_reported(tmp_path, capsys):
    for flag, size, example in (
        ('--sizes', '224', '224x224'),
        ('--sizes', '0x224', '224x224'),
        ('--graph-shapes', '25x42', '2x400x25x42'),
    ):
        assert run('benchmark', flag, size) == 2
        assert f'like {example}' in capsys.readouterr().err
    (tmp_path / 'result.json').write_text(json.dumps({'rows': []}))
    message = run('benchmark', '--from-file', tmp_path / 'result.json')
    assert 'not a benchmark.json' in message
    if not torch.cuda.is_available():
        assert 'cannot be used' in run('benchmark', '--device', 'cuda')


def test_documented_commands_parse():
    tool = load('benchmark')
    (block,) = code_blocks(TOOLS.parent / 'docs' / 'benchmark_method.md', 'shell')
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        assert words[:2] == ['python', 'tools/benchmark.py']
        tool.parse_args(words[2:])


@pytest.mark.parametrize('parts', [['loader,targets'], ['loader', 'targets']])
def test_parts_and_sizes(parts):
    parse = load('benchmark').parse_args
    assert parse(['--parts', *parts]).parts == ['loader', 'targets']
    assert parse(['--parts', '--detector']).parts == ['detector']
    assert parse([]).parts == ['graph', 'inference', 'training']
    assert parse(['--parts', ','.join(PARTS)]).parts == list(PARTS)
    assert parse([]).sizes == ['224x224', '800x1216']
    assert parse(['--device', 'cuda']).sizes[-1] == '800x1344'
    with pytest.raises(SystemExit):
        parse(['--parts', 'loader,target'])


@pytest.mark.parametrize('flag', ['--baselines', '--rivals'])
def test_old_name_of_baselines(flag):
    assert load('benchmark').parse_args([flag, 'resnet18']).baselines == ['resnet18']
