"""The graph step in Triton, where that is installed: interpreted, and compiled for a
GPU that isn't there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from mobilevig_det import MobileViG
from mobilevig_det.errors import UserError

import pytest

TESTS = Path(__file__).parents[1] / 'helpers'


@pytest.mark.parametrize('how', ['interpret', 'compile'])
def test_in_a_process_of_its_own(how, tmp_path):
    if find_spec('triton') is None:
        pytest.skip('Triton, 690 MB, is not installed')
    paths = [str(TESTS.parents[1]), str(TESTS), *sys.path]
    environ = dict(PYTHONPATH=os.pathsep.join(paths), TRITON_CACHE_DIR=str(tmp_path))
    environ['TRITON_INTERPRET'] = '1' if how == 'interpret' else '0'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', TESTS / 'triton_run.py', how],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(find_spec('triton') is not None, reason='Triton is installed')
def test_without_triton():
    with pytest.raises(UserError, match='pip install triton'):
        MobileViG('ti', triton=True)
