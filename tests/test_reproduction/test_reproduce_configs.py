"""tools/reproduce.py on the configs alone, without data."""

import json

from reproduction.figures import BACKBONE_FLOPS, FIGURES, FLOPS, PARAMETERS, RATES

import pytest
from test_reproduce_tool import run_with

FAST = ('mobilevig_m', 'adaptvig_s')  # the others are slow tests


@pytest.mark.parametrize(
    'all_sizes', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_configs_have_the_published_figures(tmp_path, capsys, all_sizes):
    figures = [
        figure
        for figure in FIGURES
        if all_sizes
        # tests/test_configs/test_recipe.py checks the learning rates.
        or (f'{figure.family}_{figure.arch}' in FAST and figure.quantity != RATES)
    ]
    assert run_with(figures, '--what', 'configs', '--out-dir', tmp_path) == 0
    content = json.loads((tmp_path / 'reproduce.json').read_text())
    wanted = [figure.id for figure in figures if figure.what == 'configs']
    assert len(wanted) == (128 if all_sizes else 14)
    assert [row['id'] for row in content['figures']] == wanted
    assert {row['verdict'] for row in content['figures']} == {'reproduced'}
    rates = [r['measured'] for r in content['figures'] if 'rates' in r['quantity']]
    assert rates == ([3516, 3516] if all_sizes else [])
    capsys.readouterr()


def test_changed_schedule_and_layers_are_missed(tmp_path):
    flags = ['--what', 'configs', '--out-dir', tmp_path, '--cfg-options']
    flags += ['param_scheduler.1.gamma=0.2', 'model.roi_head.mask_head.num_convs=5']
    figures = [
        figure
        for figure in FIGURES
        if figure.config == 'mobilevig_m_fpn_1x'
        and figure.quantity in (PARAMETERS, FLOPS, BACKBONE_FLOPS, RATES)
    ]
    assert run_with(figures, *flags) == 1
    content = json.loads((tmp_path / 'reproduce.json').read_text())
    verdicts = {row['quantity']: row['verdict'] for row in content['figures']}
    assert verdicts == {
        PARAMETERS: 'missed',
        FLOPS: 'missed',
        BACKBONE_FLOPS: 'reproduced',
        RATES: 'missed',
    }
