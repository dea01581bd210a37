"""On a GPU, as far as it can be seen without one: no tensor is left on the processor,
and ours make it wait no more often than they must."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1] / 'helpers'
HOST, DEVICE = 'to the host', 'to the device'
pytestmark = pytest.mark.skipif(
    not hasattr(
        torch.utils.backend_registration, '_setup_privateuseone_for_python_backend'
    ),
    reason='this torch has no devices written in Python',
)


@pytest.fixture(scope='module')
def found(shapes_root, tmp_path_factory):
    return run(shapes_root, tmp_path_factory.mktemp('cuda'), 'with torchvision')


def run(shapes_root, folder, *more):
    paths = [str(TESTS.parents[1]), str(TESTS), *sys.path]
    where = ' '.join(['fakegpu', *more])
    program = TESTS / 'fake_device_run.py'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', program, folder, 'cpu', where],
        env=dict(PYTHONPATH=':'.join(paths), SHAPES_ROOT=str(shapes_root)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found | dict(there=found[where])


def ours(waits):
    """Count the waits of each of this project's files, by reason."""
    counts = Counter()
    for line, number in waits.items():
        where = line.split(':')[0]
        if where.startswith('mobilevig_det/'):
            counts[where.removeprefix('mobilevig_det/')] += number
    return dict(counts)


def test_stand_in_device_detects_waits(found):
    failed = {program for program, (failed, _) in found['device'].items() if failed}
    waits = {program: waits for program, (_, waits) in found['device'].items() if waits}
    assert failed == {
        'x * torch.ones(4)',
        'torch.cat([x, torch.ones(1)])',
        'torch.stack([x, x.cpu()])',
    }
    assert waits == {
        'x.sum().item()': ['PyTorch item'],
        'bool(x.any())': ['PyTorch item'],
        'x.nonzero()': ['PyTorch nonzero'],
        'x[x > 1]': ['PyTorch nonzero'],
        'x[[0, 1]]': [f'PyTorch {DEVICE}'],
        'x.cpu()': [f'PyTorch {HOST}'],
        'x.tolist()': [f'PyTorch {HOST}'],
        'torch.ones(4).to(x)': [f'PyTorch {DEVICE}'],
        'torch.tensor([1], device=x.device)': [f'PyTorch {DEVICE}'],
        'x.unique()': ['PyTorch nonzero'],
        'torch.stack([x, x.cpu()])': [f'PyTorch {HOST}'],
    }


def check_numbers(found):
    """Check that losses and metrics are those of the CPU."""
    there, cpu = found['there'], found['cpu']
    assert len(cpu['losses']) == 2
    assert there['losses'][0] == pytest.approx(cpu['losses'][0], rel=1e-5)
    # AdamW's first step is of the gradient's sign, which rounding can turn.
    assert there['losses'][1] == pytest.approx(cpu['losses'][1], rel=1e-3)
    assert list(there['metrics']) == list(cpu['metrics'])
    assert cpu['training'] == cpu['validation'] == {}


def test_run_waits_only_where_needed(found):
    """With torchvision's operators, as on most GPUs."""
    check_numbers(found)
    training, validation = found['there']['training'], found['there']['validation']
    assert ours(training) == {
        # Of seven images: MMDetection wants the targets as NumPy's.
        f'datasets/loading.py {HOST}': 7,
        f'datasets/loading.py {DEVICE}': 2 * 7,
        f'engine/hooks/finite_numbers.py {HOST}': 2,
        # What MMEngine makes first; the second iteration's stay where they are.
        f'engine/hooks/training_log.py {HOST}': 1,
    }
    assert ours(validation) == {f'evaluation/fast_coco_metric.py {HOST}': 4}
    assert sum(training.values()) > 10 * sum(ours(training).values())


@pytest.mark.slow
def test_run_without_torchvision(shapes_root, tmp_path):
    found = run(shapes_root, tmp_path)
    check_numbers(found)
    assert ours(found['there']['training']).keys() > {
        f'mmcv_ops/nms.py {HOST}',
        f'mmcv_ops/roi_samples.py {HOST}',
    }
