"""Train, test and use a classifier from the command line, in small."""

import json

import mobilevig_det  # noqa: F401
from mobilevig_det import MobileViG
from mobilevig_det.datasets.shape_classes import CLASSES, make_shape_classes

import pytest
import torch
from mmengine.runner import CheckpointLoader
from reference import golden_state_dict
from tool import run
from torchvision_stand_in import import_with_stand_in

CONFIG = 'configs/imagenet/mobilevig_ti_shapes.py'
SMALL = [
    '--cfg-options',
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val', 'test')
        for key in ('num_workers=0', 'persistent_workers=False', 'batch_size=10')
    ),
    'default_hooks.logger.interval=1',
    'custom_hooks.0.momentum=0.3',
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_shape_classes(tmp_path_factory.mktemp('classes') / 'set', 20, 10, 32)


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    """The work dir of an epoch, and of another one after a resume."""
    work_dir = tmp_path_factory.mktemp('work') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPE_CLASSES_ROOT', str(root))
        patch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        for epochs, resume in ((1, []), (2, ['--resume'])):
            options = [*SMALL, f'train_cfg.max_epochs={epochs}']
            assert run('train', CONFIG, '--work-dir', work_dir, *resume, *options) == 0
        yield work_dir


def test_resumed(trained):
    lines = [
        json.loads(line)
        for path in sorted(trained.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    assert [row['step'] for row in lines if 'loss' in row] == [1, 2, 3, 4]
    assert [set(row) for row in lines if 'accuracy/top1' in row][0] >= {'accuracy/top5'}


def test_detector_starts_from_the_averaged_weights(trained):
    """Without conversion, and without a prefix."""
    checkpoint = torch.load(trained / 'epoch_2.pth', weights_only=True)
    averaged, raw = checkpoint['state_dict'], checkpoint['ema_state_dict']
    key = 'backbone.stem.0.conv.weight'
    assert not torch.equal(averaged[key], raw[f'module.{key}'])
    backbone = MobileViG(
        'ti',
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type='Pretrained', checkpoint=f'mobilevig://{trained}/epoch_2.pth'
        ),
    )
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, averaged[f'backbone.{name}']), name


def test_raw_and_averaged_are_scored(trained, tmp_path, capfd, monkeypatch):
    """One of them is broken in the file: the score says which one was used."""
    checkpoint = torch.load(trained / 'epoch_2.pth', weights_only=True)
    for key in ('module.head.head.bias', 'module.head.dist_head.bias'):
        checkpoint['ema_state_dict'][key][3] = 1e6
    torch.save(checkpoint, tmp_path / 'file.pth')
    for flags, which in (([], 'raw'), (['--ema', '--fuse'], 'averaged')):
        out = tmp_path / f'{which}.pkl'
        args = [CONFIG, tmp_path / 'file.pth', '--work-dir', tmp_path, *flags]
        assert run('test', *args, '--out', out, *SMALL) == 0
        assert f'{which} weights: top1' in capfd.readouterr().out
    from mmengine.fileio import load

    labels = {
        which: [int(s['pred_label']) for s in load(tmp_path / f'{which}.pkl')]
        for which in ('raw', 'averaged')
    }
    assert labels['raw'] == [3] * 10
    assert labels['averaged'] != [3] * 10


def test_infer_tells_the_five_best(trained, root, tmp_path, capsys):
    image = root / 'val' / 'star' / '000009.png'
    broken = tmp_path / 'broken.png'
    broken.write_bytes(image.read_bytes()[:50])
    checkpoint = trained / 'epoch_2.pth'
    args = [image, broken, '--config', CONFIG, '--checkpoint', checkpoint]
    code = run('infer', *args, '--out-dir', tmp_path / 'out')
    assert '1 skipped' in code
    (row,) = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert row['file_name'] == str(image)
    scores = [c['score'] for c in row['classes']]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1 + 1e-6
    assert {c['name'] for c in row['classes']} <= set(CLASSES)
    assert f'{image}: {row["classes"][0]["name"]}' in capsys.readouterr().out


def refusal(*args):
    message = run(*args)
    assert isinstance(message, str), message
    return message


def test_refusals(trained, root, tmp_path, monkeypatch):
    checkpoint = trained / 'epoch_2.pth'
    authors = tmp_path / 'authors.pth'
    torch.save(dict(state_dict=golden_state_dict('ti')), authors)
    assert 'has 1000 classes' in refusal('test', CONFIG, authors)
    assert 'no averaged' in refusal('test', CONFIG, authors, '--ema')
    assert '--tta is for detectors' in refusal('test', CONFIG, checkpoint, '--tta')
    options = ['--cfg-options', 'model.head.num_classes=7']
    assert 'num_classes is 10' in refusal('train', CONFIG, *options)
    options.append('model.data_preprocessor.mixing.num_classes=7')
    assert 'has 10 subfolders' in refusal('train', CONFIG, *options)
    (root / 'train' / 'zebra').mkdir()
    try:
        options = ['model.head.num_classes=11']
        options.append('model.data_preprocessor.mixing.num_classes=11')
        message = refusal('train', CONFIG, '--cfg-options', *options)
    finally:
        (root / 'train' / 'zebra').rmdir()
    assert 'zebra has no images' in message
    monkeypatch.setenv('SHAPE_CLASSES_ROOT', str(tmp_path / 'none'))
    assert '--task classification' in refusal('train', CONFIG)
    monkeypatch.setenv('IMAGENET_ROOT', str(tmp_path / 'no_imagenet'))
    assert 'Set IMAGENET_ROOT' in refusal('test', 'mobilevig_ti_300e', authors)


def test_refusals_of_the_recipe(root, tmp_path, monkeypatch):
    """The package and the teacher's file, asked for before the first step."""
    import sys

    monkeypatch.setenv('IMAGENET_ROOT', str(root))
    ten = ['--cfg-options', 'model.head.num_classes=10']
    ten.append('model.data_preprocessor.mixing.num_classes=10')
    for name in ('mmpretrain', 'mmpretrain.datasets'):
        monkeypatch.setitem(sys.modules, name, None)
    message = refusal('train', 'mobilevig_ti_300e', *ten)
    assert 'pip install "mobilevig_det[imagenet]"' in message
    monkeypatch.setenv('TEACHER_FILE', str(tmp_path / 'none.pth'))
    ten.append('train_dataloader.dataset.pipeline=[]')
    ten.append('train_dataloader.sampler.type=DefaultSampler')
    import_with_stand_in('timm')
    assert 'There is no teacher file' in refusal('train', 'mobilevig_ti_300e', *ten)


def test_the_recipe_trains(root, tmp_path, monkeypatch):
    """Two steps of the whole recipe, with a small teacher."""
    timm = import_with_stand_in('timm')
    import_with_stand_in('mmpretrain.datasets')
    teacher = timm.create_model('regnety_002', num_classes=10)
    torch.save(dict(model=teacher.state_dict()), tmp_path / 'teacher.pth')
    monkeypatch.setenv('IMAGENET_ROOT', str(root))
    monkeypatch.setenv('TEACHER_FILE', str(tmp_path / 'teacher.pth'))
    options = [
        '--cfg-options',
        *(option for option in SMALL[1:] if 'momentum' not in option),
        'model.teacher.model=regnety_002',
        'model.head.num_classes=10',
        'model.data_preprocessor.mixing.num_classes=10',
        'train_dataloader.dataset.num_classes=10',
        'val_dataloader.dataset.num_classes=10',
        'train_dataloader.batch_size=8',
        'train_cfg.max_epochs=1',
    ]
    work_dir = tmp_path / 'run'
    args = ['mobilevig_ti_300e', '--work-dir', work_dir, '--auto-scale-lr']
    assert run('train', *args, *options) == 0
    checkpoint = torch.load(work_dir / 'epoch_1.pth', weights_only=True)
    groups = checkpoint['optimizer']['param_groups']
    assert {group['initial_lr'] for group in groups} == {2e-3 * 8 / 1024}
    for part in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in key for key in checkpoint[part])
    assert checkpoint['meta']['iter'] == 2
