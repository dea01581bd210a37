"""torchrun --max-restarts with tools/train.py and the shapes detector."""

import os
import signal
import subprocess
import sys

from mobilevig_det.checkpoints import read_checkpoint
from mobilevig_det.config import find_config

import pytest
from tool import SMALL, TOOLS

DIES_ONCE = """
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DiesOnce(Hook):
    def before_train_epoch(self, runner):
        first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'
        if first and runner.rank == 1 and runner.epoch == 1:
            os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs the signals of Linux')
@pytest.mark.parametrize('used', [False, True], ids=['empty', 'used'])
def test_killed_process_is_restarted_and_resumes(shapes_root, tmp_path, used):
    """The folder may hold a longer run's checkpoint, which must not be resumed."""
    (tmp_path / 'dies_once.py').write_text(DIES_ONCE)
    (tmp_path / 'config.py').write_text(
        f'_base_ = {find_config("mobilevig_ti_fpn_shapes")!r}\n'
        "custom_imports = dict(imports=['mobilevig_det', 'dies_once'])\n"
        "default_hooks = dict(dies_once=dict(type='DiesOnce'))\n"
    )
    run = tmp_path / 'run'
    if used:
        run.mkdir()
        (run / 'epoch_9.pth').write_bytes(b'of another run')
    job = subprocess.Popen(
        [
            sys.executable,
            *('-m', 'torch.distributed.run', '--standalone'),
            *('--nproc_per_node=2', '--max-restarts=1'),
            *(TOOLS / 'train.py', tmp_path / 'config.py', '--launcher', 'pytorch'),
            *('--work-dir', run, *SMALL, 'train_cfg.max_epochs=2'),
            'train_dataloader.batch_size=2',
        ],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(TOOLS.parent), str(tmp_path)]),
            'SHAPES_ROOT': str(shapes_root),
            'OMP_NUM_THREADS': '1',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = job.communicate(timeout=300)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, output
    assert output.count('resumed epoch: 1, iter: 2') == 1, output
    last = read_checkpoint(run / 'epoch_2.pth')
    assert (last['meta']['epoch'], last['meta']['iter']) == (2, 4)
