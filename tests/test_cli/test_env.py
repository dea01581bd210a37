"""The report for a bug report, on a good stack and on broken ones."""

import subprocess
import sys
from importlib import metadata

import mobilevig_det
from mobilevig_det.mmcv_ops.mmcv_ext import in_use
from mobilevig_det.versions import DISTRIBUTIONS

import pytest
import torch
from tool import TOOLS, load, run

ROOT = TOOLS.parent


def lines(text):
    return dict(line.split(': ', 1) for line in text.splitlines())


def test_what_runs_here(capfd):
    assert run('env') == 0
    told = lines(capfd.readouterr().out)
    assert told['problem'].startswith('none')
    assert told['mobilevig_det'] == mobilevig_det.__version__
    assert told['Python'].split()[0] == sys.version.split()[0]
    assert told['torch'] == f'torch {metadata.version("torch")}'
    for module, names in DISTRIBUTIONS.items():
        name, version = told[module].split()
        assert name in names and version == metadata.version(name)
    assert told['device'].startswith('cuda' if torch.cuda.is_available() else 'cpu')
    assert told['operators'] == in_use()
    assert {'OpenCV', 'GCC'} <= set(told)  # of MMEngine's own list
    assert 'PyTorch compiling details' not in told


def test_one_failure_leaves_the_rest(monkeypatch):
    """As torchvision's, which fails in MMEngine's list where it was built for
    another torch."""
    import mmengine.utils.dl_utils as dl_utils

    def fail():
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(dl_utils, 'collect_env', fail)
    told = load('env').report()
    assert 'torchvision::nms' in told['collect_env']
    assert told['torch'].startswith('torch ')


def bare(tmp_path, *command, **installed):
    """Run the command where nothing but such distributions is installed."""
    for name, version in installed.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('')
        info = tmp_path / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
        (info / 'top_level.txt').write_text(f'{name}\n')
    return subprocess.run(
        [sys.executable, '-S', *command],
        env=dict(PYTHONPATH=f'{tmp_path}:{ROOT}'),
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    'command', [['-m', 'mobilevig_det', 'env'], [str(TOOLS / 'env.py')]]
)
def test_broken_stack(tmp_path, command):
    """Its versions and what is wrong, also though the package can't import."""
    done = bare(tmp_path, *command, mmengine='0.10.7', mmdet='2.28.2', mmcv='1.7.2')
    assert (done.returncode, done.stderr) == (0, '')
    told = lines(done.stdout)
    assert told['problem'].startswith('StackError: mmdet 2.28.2 is installed')
    assert told['mmcv'] == 'mmcv 1.7.2'
    assert told['torch'] == 'not installed'
    assert told['device'].startswith('unknown (ModuleNotFoundError')


def test_other_tools_still_stop(tmp_path):
    done = bare(tmp_path, '-m', 'mobilevig_det', 'train', 'env')
    assert done.returncode == 1
    assert 'StackError: mmengine is not installed' in done.stderr
