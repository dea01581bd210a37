"""tools/infer.py in processes that are killed, and in several of them."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import SKIPPED, assert_whole, infer, rows, work  # noqa: F401

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1] / 'helpers'
FLAGS = '--checkpoint model/epoch_1.pth --out-dir out --score-thr 0.4'.split()
FLAGS += ['--batch-size', '1']  # a row for each picture before the one it dies at


def run(*argv, processes=0, **environ):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    launcher, more = [], []
    if processes:
        launcher = ['-m', 'torch.distributed.run', f'--master_port={port}']
        launcher += [f'--nproc_per_node={processes}']
        more = ['--launcher', 'pytorch']
    return subprocess.run(
        [
            *(sys.executable, *launcher, str(TESTS / 'infer_process.py')),
            *('images', *FLAGS, *more, *argv),
        ],
        env=dict(
            {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'},
            PYTHONPATH=os.pathsep.join([str(TESTS.parents[1]), str(TESTS), *sys.path]),
            CUDA_VISIBLE_DEVICES='',
            **environ,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize('draw', [False, True])
def test_sigkill(work, draw):  # noqa: F811
    flags = [] if draw else ['--no-save-vis']
    done = run(*flags, KILLED_RANK='0', KILLED_AT='12')
    assert done.returncode == -signal.SIGKILL, done.stdout
    assert len(rows()) > 11 and not Path('out/predictions.json').exists()
    assert infer('--resume', draw=draw) == SKIPPED
    assert_whole()


def test_two_processes(work):  # noqa: F811
    done = run('--no-save-vis', processes=2)
    assert 'infer.py: 3 skipped, see above.' in done.stdout
    assert done.stdout.count('Detections: out/predictions.json') == 1
    assert_whole()
    shares = [path.read_text().count('\n') for path in Path('out/rows').glob('*.jsonl')]
    assert len(shares) == 2 and min(shares) > 3


@pytest.mark.parametrize('rank', [0, 1])
def test_one_of_two_dies(work, rank):  # noqa: F811
    """The job ends, says so, and goes on with three."""
    done = run('--no-save-vis', processes=2, KILLED_RANK=str(rank), KILLED_AT='3')
    assert done.returncode != 0
    assert '--resume resumes' in done.stdout
    assert not Path('out/predictions.json').exists()
    assert len(rows()) > 3
    done = run('--no-save-vis', '--resume', processes=3)
    assert 'see above' in done.stdout, done.stdout
    assert_whole()


def test_torchrun_starts_them_anew(work):  # noqa: F811
    """… and they go on by themselves."""
    script = Path('killed_once.py')
    script.write_text(
        'import os, runpy, sys\n'
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    os.environ.update(KILLED_RANK='1', KILLED_AT='3')\n"
        f'sys.argv[0] = {str(TESTS / "infer_process.py")!r}\n'
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2']
    # Nothing is skipped, or torchrun would start them over and over.
    for name in 'images/3_text.jpg', 'images/5_line.png', 'images/b.avi':
        os.remove(name)
    done = subprocess.run(
        [*command, '--standalone', '--max-restarts=1', str(script), 'images', *FLAGS]
        + ['--no-save-vis', '--launcher', 'pytorch'],
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join([str(TESTS.parents[1]), str(TESTS), *sys.path]),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert_whole()
