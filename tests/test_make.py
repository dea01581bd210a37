"""How `make env` sets up an environment, with a fake Python that records its calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# -c: the checks of a Python; -m venv: makes an environment with itself inside.
PYTHON = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
  *'sys.exit('*) exit $TOO_OLD ;;
  *'import cv2'*) exit $NO_GL ;;
  '-m venv'*)
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  *'pip install'*) exit $PIP_FAILS ;;
esac
"""

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='no make')


class Clone:
    """A clone without its sources, and the calls that `make` made there."""

    def __init__(self, folder):
        self.root = folder / 'a clone'
        self.calls = folder / 'calls'
        self.python = folder / 'a python'
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        shutil.copytree(ROOT / 'requirements', self.root / 'requirements')
        for name in ('Makefile', 'setup.py', 'pyproject.toml'):
            shutil.copy(ROOT / name, self.root)

    def make(self, *variables, **fails):
        """Run `make env`: exit status, lines of stderr, calls of pip."""
        self.calls.write_text('')
        env = {k: v for k, v in os.environ.items() if not k.startswith('MAKE')}
        for name in ('TORCH', 'STACK', 'PYTHON'):
            env.pop(name, None)
        fails = {'TOO_OLD': 0, 'NO_GL': 0, 'PIP_FAILS': 0, **fails}
        env.update({name: str(code) for name, code in fails.items()})
        if not any(variable.startswith('PYTHON=') for variable in variables):
            variables += (f'PYTHON={self.python}',)
        done = subprocess.run(
            ['make', 'env', *variables],
            cwd=self.root,
            env=dict(env, CALLS=str(self.calls)),
            text=True,
            capture_output=True,
        )
        calls = self.calls.read_text().splitlines()
        pip = [call for call in calls if call.startswith('-m pip ')]
        return done.returncode, done.stderr.splitlines(), pip


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_one_command_installs_everything(clone):
    code, _, (install, others) = clone.make()
    assert ' --no-deps mmpretrain timm ' in others
    assert code == 0
    assert install.startswith('-m pip install ')
    assert install.endswith(
        ' -c .venv/constraints.txt -e .[openmmlab,export,ray,test] mmsegmentation'
    )
    assert (clone.root / '.venv' / 'constraints.txt').read_text() == (
        ROOT / 'requirements' / 'openmmlab.txt'
    ).read_text()


def test_onedl_and_another_torch(clone):
    code, _, (install, others) = clone.make('STACK=onedl', 'TORCH=2.9.1')
    assert code == 0
    assert install.endswith(
        ' -c .venv-onedl/constraints.txt -e .[onedl,export,ray,test]'
        ' onedl-mmsegmentation'
    )
    constraints = (clone.root / '.venv-onedl' / 'constraints.txt').read_text()
    assert 'torch==2.9.1\n' in constraints and 'torch==2.13.0' not in constraints
    assert 'onedl-mmcv==' in constraints


def test_environment_is_made_again_only_after_a_change(clone):
    assert clone.make()[2]
    assert not clone.make()[2]
    assert clone.make('TORCH=2.9.1')[2]
    assert clone.make()[2]
    for name in ('setup.py', 'pyproject.toml', 'requirements/openmmlab.txt'):
        path = clone.root / name
        path.write_text(path.read_text() + '# changed\n')
        assert clone.make()[2], name
        assert not clone.make()[2]
    clone.root = clone.root.rename(clone.root.with_name('moved'))
    assert clone.make()[2]  # an environment contains its own path


def test_failed_installation_is_reported_and_repeated(clone):
    code, lines, _ = clone.make(PIP_FAILS=1)
    assert code and 'last lines above say why' in lines[0]
    assert len(lines) == 2 and 'Makefile' in lines[1]  # the last line is make's
    code, _, calls = clone.make()
    assert code == 0 and calls


def test_opencv_without_opengl_is_replaced_by_headless(clone):
    code, _, calls = clone.make(NO_GL=1)
    assert code == 0
    assert 'uninstall' in calls[2] and calls[2].endswith(' opencv-python')
    assert calls[3].endswith(' opencv-python-headless')


@pytest.mark.parametrize(
    'variables, fails, expected',
    [
        (['PYTHON=no-such-python'], {}, 'there is no no-such-python: install'),
        ([], {'TOO_OLD': 1}, 'is not 3.10 or newer'),
        (['STACK=mm'], {}, 'take openmmlab or onedl'),
    ],
)
def test_user_errors_are_one_line(clone, variables, fails, expected):
    code, lines, calls = clone.make(*variables, **fails)
    assert code and not calls and expected in lines[0]
    assert len(lines) == 2 and 'Makefile' in lines[1]


def test_python_without_venv(clone):
    """As on Debian, where venv is a separate package."""
    clone.python.write_text(
        '#!/bin/sh\n'
        'case "$*" in *ensurepip*) exit 1 ;; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    code, lines, _ = clone.make()
    assert code and 'apt install python3-venv' in lines[0] and len(lines) == 2
