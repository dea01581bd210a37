"""The reference implementation computes the same as ours."""

from benchmarks.backbones import SIBLINGS, build
from benchmarks.reference import agc, dagc, mgc, svga
from mobilevig_det import MobileViG

import numpy as np
import pytest
import torch
from naive_graph_steps import naive_max_relative
from siblings import ALL, CLASSES, golden
from tool import load

STEPS = dict(mobilevigv2=mgc, greedyvig=dagc, adaptvig=agc)


def test_graph_step_of_mobilevig():
    x = torch.randn(1, 3, 5, 8)
    assert torch.equal(svga(x), naive_max_relative(x, 2))


@pytest.mark.parametrize('family', STEPS)
def test_graph_steps_of_siblings(family):
    data = golden()
    for graph in {key.split('/')[2] for key in data if key.startswith('graph/m')}:
        x = torch.from_numpy(data[f'graph/{graph}/x'])
        more = (
            [torch.from_numpy(np.asarray(data[f'graph/{family}/{graph}/t']))]
            if family == 'adaptvig'
            else []
        )
        if x[0, 0].numel() == 1:  # PyTorch warns of its unbiased deviation
            continue
        out = STEPS[family](x, *more, int(graph.split('_K')[1]))
        want = data[f'graph/{family}/{graph}/x_j']
        assert np.abs(out.numpy() - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize('family', ['mobilevig', *CLASSES])
def test_backbones(family):
    arch = 'ti' if family in ('mobilevig', 'mobilevigv2', 'rapidnet') else 's'
    cls = MobileViG
    if family != 'mobilevig':
        cls, arch = SIBLINGS[f'{CLASSES[family]}-{arch}']
    x = torch.rand(1, 3, 96, 128)
    ours, reference = (build(cls, arch, reference=r).eval() for r in (False, True))
    with torch.no_grad():
        for found, want in zip(ours(x), reference(x)):
            assert not torch.equal(found, want)  # another order of operations
            assert (found - want).abs().max() <= 1e-5 * want.abs().max()


def test_every_size_of_the_siblings_can_be_chosen():
    args = load('benchmark').parse_args(['--siblings', 'all'])
    assert set(args.siblings) == {f'{CLASSES[family]}-{size}' for family, size in ALL}
