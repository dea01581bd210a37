"""What train.py and test.py say of a config, data or launcher that isn't there."""

import subprocess
import sys
from fnmatch import fnmatchcase

from mobilevig_det.config import load_config

import pytest
import torch
from tool import SMALL, TOOLS, refusal

CONFIG = 'configs/mask_rcnn/mobilevig_ti_fpn_shapes.py'


def test_unknown_config_in_one_line():
    """In a process of its own: nothing else may be printed."""
    done = subprocess.run(
        [sys.executable, TOOLS / 'train.py', 'configs/mask_rcnn/nope.py'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("train.py: There is no config '")
    assert 'mask_rcnn/mobilevig_m_fpn_1x.py' in done.stderr
    assert done.stderr.count('\n') == 1


def test_unreadable_config(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = './missing.py'\n")
    message = refusal('train', config)
    assert str(config) in message and 'missing.py' in message
    config.write_text('model = dict(\n')
    assert str(config) in refusal('train', config)


@pytest.mark.parametrize(
    'option, words',
    [
        ('model.nonsense=1', "MaskRCNN.__init__() got an unexpected * 'nonsense'."),
        ('train_cfg.max_epoch=1', "train_cfg has no max_epoch. Is it 'max_epochs'?"),
        (
            'model.backbone.type=Nonsense',
            'fit: Nonsense is not in the *model registry.',
        ),
        (
            'optim_wrapper.optimizer.lr=abc',
            "'float' and 'str'. Check * --cfg-options; it was rejected at *adam*.py:*.",
        ),
        ('param_scheduler.0.end=0', 'fit: end should be larger than begin, * end=0.'),
        ('train_dataloader.dataset.pipeline.9.x=1', 'Index 9 exceeds the length of *'),
        ('model.backbone.arch.channels=1', '*arch* cannot inherit from base *'),
        (
            'trian_cfg.max_epochs=1',
            "trian_cfg.max_epochs: * no trian_cfg. * 'train_cfg'?",
        ),
    ],
)
def test_slips_in_configs(shapes_root, tmp_path, monkeypatch, option, words):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    message = refusal('train', CONFIG, '--work-dir', tmp_path, *SMALL, option)
    assert fnmatchcase(message, f'train.py: *{words}*') and '\n' not in message


def test_options_that_a_config_lacks():
    """But could have."""
    options = dict(tta_pipeline=[], custom_hooks=[], work_dir='here')
    assert load_config(CONFIG, options).work_dir == 'here'


def test_missing_coco(tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(tmp_path / 'nowhere'))
    message = refusal('train', 'mobilevig_m_fpn_1x')
    for words in (str(tmp_path / 'nowhere'), 'COCO_ROOT=', 'make demo'):
        assert words in message
    (tmp_path / 'nowhere').mkdir()
    message = refusal('test', 'mobilevig_m_fpn_1x', 'some.pth')
    assert str(tmp_path / 'nowhere/annotations/instances_val2017.json') in (message)


def test_missing_folder_of_an_own_data_set(shapes_root, tmp_path, monkeypatch):
    """Not that of our configs, so that their variables don't help."""
    monkeypatch.delenv('SHAPES_ROOT', raising=False)
    root = f'train_dataloader.dataset.data_root={shapes_root}/'
    missing = 'train_dataloader.dataset.data_prefix.img=photos/'
    message = refusal('train', CONFIG, *SMALL, root, missing)
    assert f"no folder '{shapes_root}/photos/'" in message
    assert 'data_prefix' in message and 'train_dataloader.dataset' in message
    assert '_ROOT' not in message and 'COCO' not in message


@pytest.mark.parametrize('below', ['', 'run', 'a/b'])
def test_work_dir_that_is_a_file(below, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    (tmp_path / 'file').write_text('')
    message = refusal('train', CONFIG, '--work-dir', tmp_path / 'file' / below)
    assert message.startswith('train.py: --work-dir: ')
    assert f'{tmp_path}/file: Not a directory' in message


@pytest.mark.parametrize('out', ['missing/found.pkl', 'file/found.pkl', '/proc/x.pkl'])
def test_unwritable_out_is_refused_before_the_test(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    assert refusal('test', CONFIG, 'no.pth', '--out', out).startswith('test.py: --out:')


def test_files_that_cannot_be_opened_are_one_message(
    tmp_path, monkeypatch, shapes_root
):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    (tmp_path / 'file').write_text('')
    message = refusal('browse_data', CONFIG, '--out-dir', tmp_path / 'file')
    assert message == f"browse_data.py: File exists: '{tmp_path}/file'"


@pytest.mark.parametrize(
    'address',
    ['s3://KEY:SECRET@bucket/x.pth', 'torchvision://rasnet', 'open-mmlab://x'],
)
def test_address_that_mmengine_cannot_load(address, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    options = '--work-dir', tmp_path, *SMALL
    message = refusal('test', CONFIG, address, *options)
    assert f'The checkpoint {address.replace("KEY:SECRET@", "")} cannot' in message


@pytest.mark.parametrize(
    'launcher, program, variable',
    [
        ('pytorch', 'torchrun', 'RANK'),
        ('slurm', 'srun', 'SLURM_PROCID'),
        ('mpi', 'mpirun', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    ],
)
def test_launchers_that_did_not(launcher, program, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    call = ('train', CONFIG, '--launcher', launcher)
    assert f'not started by {program}' in refusal(*call)
    if launcher != 'pytorch' and not torch.cuda.is_available():
        monkeypatch.setenv(variable, '0')
        assert 'needs a GPU' in refusal(*call)
