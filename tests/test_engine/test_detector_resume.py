"""The shapes detector, trained by tools/train.py: killed while writing, and resumed."""

import os
import shutil

from mobilevig_det.checkpoints import read_checkpoint

import pytest
import torch
from tool import SMALL, run

CONFIG = 'mobilevig_ti_fpn_shapes'


def train(work_dir, *flags):
    options = ['train_cfg.max_epochs=2', 'default_hooks.checkpoint.minutes=0']
    return run('train', CONFIG, '--work-dir', work_dir, *flags, *SMALL, *options)


@pytest.mark.slow
def test_resumed_detector_is_bit_identical(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.chdir(tmp_path)
    real = os.replace

    def copying(part, path):
        """Copy what a kill during this write would leave."""
        if path.endswith('epoch_1_iter_4.pth') and not os.path.exists('killed'):
            shutil.copytree('whole', 'killed')
        real(part, path)

    monkeypatch.setattr(os, 'replace', copying)
    assert train('whole') == 0
    assert os.path.exists('killed/.epoch_1_iter_4.pth.part')
    assert train('killed', '--resume') == 0
    (log,) = [
        text
        for path in (tmp_path / 'killed').glob('*/*.log')
        if 'resumed epoch' in (text := path.read_text())
    ]
    assert 'resumed epoch: 1, iter: 3' in log

    whole, killed = (
        read_checkpoint(f'{name}/epoch_2.pth') for name in ('whole', 'killed')
    )
    for name, value in whole['state_dict'].items():
        assert torch.equal(value, killed['state_dict'][name]), name
    scalars = [c['message_hub']['log_scalars'] for c in (whole, killed)]
    assert scalars[0].keys() == scalars[1].keys()
    for name in scalars[0]:
        if 'time' not in name and 'memory' not in name:
            histories = [dict(s)[name].data[0].tolist() for s in scalars]
            assert str(histories[0]) == str(histories[1]), name
