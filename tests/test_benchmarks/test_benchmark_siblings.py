"""What the siblings are measured beside computes the same."""

from argparse import Namespace

from benchmarks import save, sibling_steps
from benchmarks.authors_siblings import agc, dagc, mgc
from benchmarks.backbones import SIBLINGS, build

import numpy as np
import pytest
import torch
from siblings import ALL, CLASSES, golden
from tool import load

AUTHORS = dict(mobilevigv2=mgc, greedyvig=dagc, adaptvig=agc)


@pytest.mark.parametrize('family', AUTHORS)
def test_authors_steps(family):
    data = golden()
    for graph in {key.split('/')[2] for key in data if key.startswith('graph/m')}:
        x = torch.from_numpy(data[f'graph/{graph}/x'])
        more = (
            [torch.from_numpy(np.asarray(data[f'graph/{family}/{graph}/t']))]
            if family == 'adaptvig'
            else []
        )
        if x[0, 0].numel() == 1:  # whose unbiased deviation PyTorch warns of
            continue
        out = AUTHORS[family](x, *more, int(graph.split('_K')[1]))
        want = data[f'graph/{family}/{graph}/x_j']
        assert np.abs(out.numpy() - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize('family', CLASSES)
def test_authors_backbones(family):
    arch = 'ti' if family in ('mobilevigv2', 'rapidnet') else 's'
    ours, theirs, arch = SIBLINGS[f'{CLASSES[family]}-{arch}']
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        for found, want in zip(*(build(cls, arch).eval()(x) for cls in (ours, theirs))):
            assert (found - want).abs().max() <= 1e-5 * want.abs().max()


def test_rows(monkeypatch, tmp_path):
    """Each step at each stage that has it, and that both run."""
    rows = []

    def run_once(given, makes, rounds, args):
        rows.extend(given)
        for make in makes:
            facts, run = make(args)
            run()
        return given

    monkeypatch.setattr(sibling_steps, 'in_turns', run_once)
    monkeypatch.setattr(sibling_steps, 'IMAGE', (64, 96))
    args = Namespace(device='cpu', rounds=1)
    assert len(list(sibling_steps.sibling_rows(args))) == (3 + 4 + 3) * 4
    result = dict(
        machine={},
        batch_size=1,
        rows=[dict(row, seconds=[1e-3], elements=9, peak_bytes=1) for row in rows],
    )
    save(result, tmp_path)
    assert (tmp_path / 'benchmark.png').is_file()
    sizes = [row['size'] for row in rows if row['name'] == 'GreedyViG-s']
    assert sizes[::2] == ['1x48x16x24', '1x96x8x12', '1x192x4x6', '1x384x2x3']


def test_all_of_them():
    args = load('benchmark').parse_args(['--siblings', 'all'])
    assert set(args.siblings) == {f'{CLASSES[family]}-{size}' for family, size in ALL}
