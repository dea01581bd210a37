"""A training that is killed at every point ends as one that was not.

In a process of its own, which forks: what other tests started is not in it.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kill_report import Outcome, Report, is_equal

HARNESS = Path(__file__).with_name('kill_training.py')


@pytest.mark.skipif(sys.platform == 'win32', reason='kills a process group')
@pytest.mark.parametrize(
    'kills, seed',
    # The plan of the first has every point of kill_points.py.
    [(10, 5733), pytest.param(30, 1, marks=pytest.mark.slow)],
)
def test_kills_lose_nothing(kills, seed):
    done = subprocess.run(
        [sys.executable, str(HARNESS), '--kills', str(kills), '--seed', str(seed)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith('| ')]
    assert rows[-1].startswith(f'| all | {kills} | {kills} |'), done.stdout
    # At how many points depends on the clock.
    assert len(rows) - 2 >= 6, done.stdout


def test_another_end_is_noticed():
    weights = dict(a=torch.tensor([1.0, 2.0]))
    end = weights, [0.5, 0.25], [0.75]
    assert is_equal(end, (dict(a=weights['a'].clone()), [0.5, 0.25], [0.75]))
    next_number = torch.nextafter(weights['a'], torch.tensor(9.0))
    for other in (
        (dict(a=next_number), *end[1:]),
        (dict(b=weights['a']), *end[1:]),
        (weights, [0.5, 0.25000001], [0.75]),
        (weights, [0.5, 0.25], [0.0]),
    ):
        assert not is_equal(end, other)


@pytest.mark.parametrize(
    'fault', [dict(resumed=1), dict(torn=1), dict(nothing_intact=1)]
)
def test_a_fault_at_one_point_is_told(fault):
    good = dict(kills=2, resumed=2)
    assert Report(dict(here=Outcome(**good)), trainings=1, equal=1).faults() == []
    (told,) = Report(
        dict(here=Outcome(**good), there=Outcome(**{**good, **fault}))
    ).faults()
    assert told.startswith('there: ')


@pytest.mark.parametrize('fault', [dict(equal=1), dict(leftovers=1), dict(orphans=1)])
def test_a_fault_of_a_training_is_told(fault):
    assert len(Report(**{**dict(trainings=2, equal=2), **fault}).faults()) == 1
