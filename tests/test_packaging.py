"""The wheel and the sdist have everything that is needed without a clone."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from tool import SMALL

ROOT = Path(__file__).parents[1]
USER_CONFIG = """
_base_ = 'mobilevig_det::mask_rcnn/mobilevig_m_fpn_1x.py'
model = dict(backbone=dict(arch='ti', init_cfg=None),
             neck=dict(in_channels=[42, 84, 168, 256]),
             roi_head=dict(bbox_head=dict(num_classes=5)))
"""
PROGRAM = """
import json, runpy, sys
import torch
import mobilevig_det
print('from', mobilevig_det.__file__)
from mmdet.registry import MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

cfg = Config.fromfile('mine.py')
# In MMDetection's scope, as the Runner builds them.
DefaultScope.get_instance('user', scope_name='mmdet')
model = MODELS.build(cfg.model)
print('built', type(model).__name__, model.backbone.arch,
      model.roi_head.bbox_head.num_classes)
wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
for scheduler in cfg.param_scheduler:
    scheduler = PARAM_SCHEDULERS.build(
        scheduler, default_args=dict(optimizer=wrapper, epoch_length=10))
    print('built', type(scheduler).__name__)
print('hub', get_config('mobilevig_det::mask_rcnn/mobilevig_s_fpn_1x.py')
      .model.backbone.arch)

# As `python -m mobilevig_det`, but torch is imported once.
for argv in json.loads(sys.argv[1]):
    print('-- tool --')
    sys.argv[1:] = argv
    try:
        runpy.run_module('mobilevig_det', run_name='__main__')
    except SystemExit as end:
        print('end', end)
"""
BUILD_EDITABLE = """
import sys
from setuptools import build_meta
build_meta.build_editable(sys.argv[1])
"""
IMPORT_EXT = """
import mmcv._ext
assert callable(mmcv._ext.nms)
print(mmcv._ext.__file__)
"""


def copy_of_tree(folder):
    """Copy the source tree, so that nothing is built in ours."""
    skip = shutil.ignore_patterns(
        *('.git', '.venv*', 'build', 'work_dirs', '*.egg-info', '__pycache__'),
        *('.*_cache', '.hypothesis', '.dist_test'),  # npm puts links into a cache
    )
    shutil.copytree(
        ROOT,
        folder,
        symlinks=True,
        ignore=lambda path, names: (
            skip(path, names) | ({'data'} if Path(path) == ROOT else set())
        ),
    )
    return folder


def build_wheel(source, folder):
    """Build the wheel of a source tree or sdist without programs on the PATH."""
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps']
        + ['--no-build-isolation', '--no-index', '-w', folder, source],
        check=True,
        env=dict(os.environ, PATH=str(folder)),
    )
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A clone where git makes no symbolic links, but files that name their targets."""
    folder = copy_of_tree(tmp_path_factory.mktemp('source') / 'source')
    links = [path for path in folder.rglob('*') if path.is_symlink()]
    assert {link.parent.name for link in links} == {'.mim'}
    for link in links:
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def editable(source, tmp_path_factory):
    """The editable wheel that `pip install -e` installs."""
    folder = tmp_path_factory.mktemp('editable')
    subprocess.run(
        [sys.executable, '-c', BUILD_EDITABLE, folder],
        check=True,
        cwd=source,
        env=dict(os.environ, PATH=str(folder)),
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def unpacked(wheel, tmp_path_factory):
    """Folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def other_python(tmp_path):
    """The Python of an empty environment."""
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True
    )
    return tmp_path / 'venv' / 'bin' / 'python'


def tree(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.is_file()
        and '__pycache__' not in path.parts
        and '.mim' not in path.relative_to(folder).parts
    }


def test_wheel_has_every_file(unpacked):
    package = unpacked / 'mobilevig_det'
    for name in ('configs', 'tools'):
        assert tree(package / '.mim' / name) == tree(ROOT / name)
    assert tree(package) == tree(ROOT / 'mobilevig_det')
    assert (package / '.mim' / 'model-index.yml').read_text() == (
        ROOT / 'model-index.yml'
    ).read_text()
    (info,) = unpacked.glob('*.dist-info')
    assert (info / 'entry_points.txt').read_text().split('\n')[:2] == [
        '[console_scripts]',
        'mobilevig_det = mobilevig_det_cli:main',
    ]
    entry_point = 'mobilevig_det_cli.py'
    assert (unpacked / entry_point).read_text() == (ROOT / entry_point).read_text()
    assert {path.name for path in unpacked.iterdir()} == {
        'mmcv',
        'mobilevig_det',
        entry_point,
        info.name,
    }
    metadata = info / 'METADATA'
    required = [
        line
        for line in metadata.read_text().splitlines()
        if line.startswith('Requires-Dist') and 'extra' not in line
    ]
    # No requirement that could make pip replace an installed package.
    assert all(
        line.split() in (['Requires-Dist:', 'numpy'], ['Requires-Dist:', 'torch'])
        for line in required
    )


def test_sdist_builds_the_same_wheel(unpacked, tmp_path):
    # A fresh copy: setuptools would add files that an earlier build has listed.
    fresh = tmp_path / 'source'
    copy_of_tree(fresh)
    subprocess.run(
        [
            sys.executable,
            '-c',
            'import setuptools.build_meta as backend; backend.build_sdist("..")',
        ],
        cwd=fresh,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (sdist,) = tmp_path.glob('*.tar.gz')
    with zipfile.ZipFile(build_wheel(sdist, tmp_path / 'wheel')) as archive:
        archive.extractall(tmp_path / 'again')
    both = [
        {
            path.relative_to(site).as_posix(): path.read_bytes()
            for path in site.rglob('*')
            if path.is_file()
            and '__pycache__' not in path.parts
            and path.name != 'RECORD'  # its order is that of the file system
        }
        for site in (unpacked, tmp_path / 'again')
    ]
    assert sorted(both[0]) == sorted(both[1])
    assert both[0] == both[1]
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'README.md', 'CHANGELOG.md', 'LICENSE', 'CITATION.cff'} <= names
    assert not any(name.startswith('tests') for name in names)


def wheel_of_mmcv_lite(folder):
    """Make a wheel with an empty mmcv."""
    path = folder / 'mmcv_lite-2.1.0-py3-none-any.whl'
    info = 'mmcv_lite-2.1.0.dist-info'
    files = {
        'mmcv/__init__.py': '',
        f'{info}/METADATA': 'Name: mmcv-lite\nVersion: 2.1.0\nMetadata-Version: 2.1\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n',
    }
    files[f'{info}/RECORD'] = ''.join(f'{name},,\n' for name in files)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    'kind, mmcv_first',
    [
        ('wheel', True),
        ('editable', False),
        pytest.param('wheel', False, marks=pytest.mark.slow),
        pytest.param('editable', True, marks=pytest.mark.slow),
    ],
)
def test_adds_mmcv_ext_to_mmcv_lite(kind, mmcv_first, other_python, tmp_path, request):
    """Uninstalling removes it again and leaves mmcv-lite complete."""

    def pip(*args):
        subprocess.run(
            [sys.executable, '-m', 'pip', '--python', other_python, *args, '-q'],
            check=True,
            # With PYTHONPATH, our sources could count as installed.
            env=dict(os.environ, PATH=str(tmp_path), PYTHONPATH=''),
        )

    wheels = [wheel_of_mmcv_lite(tmp_path), request.getfixturevalue(kind)]
    for wheel in wheels if mmcv_first else reversed(wheels):
        pip('install', '--no-deps', '--no-index', wheel)
    done = subprocess.run(
        [other_python, '-c', IMPORT_EXT], cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    assert file.name == '_ext.py' and (file.parent / '__init__.py').is_file()
    pip('uninstall', '-y', 'mobilevig_det')
    assert not file.exists() and (file.parent / '__init__.py').is_file()


@pytest.fixture(scope='module')
def anywhere(unpacked, shapes_root, tmp_path_factory):
    """The folder of a user with the wheel but no clone, and the output there.

    The output is that of a program, then of one tool after the other.
    """
    folder = tmp_path_factory.mktemp('anywhere')
    (folder / 'mine.py').write_text(USER_CONFIG)
    (folder / 'program.py').write_text(PROGRAM)
    coco = folder / 'coco'
    for name in ('annotations', 'train2017', 'val2017'):
        (coco / name).mkdir(parents=True)
    for name in ('train', 'val'):
        (coco / 'annotations' / f'instances_{name}2017.json').write_text('{}')
    config = 'mobilevig_ti_fpn_shapes'
    checkpoint = f'work_dirs/{config}/epoch_1.pth'
    given = '--config', config, '--checkpoint', checkpoint
    calls = [
        ['test', 'mobilevig_ti_fpn_1x', 'no.pth'],
        ['train', config, *SMALL, 'train_cfg.max_epochs=1'],
        ['test', config, checkpoint, *SMALL],
        ['infer', *map(str, pictures(shapes_root)), *given],
        ['benchmark'],
        ['run-onnx', '--help'],
    ]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', 'program.py', json.dumps(calls)],
        cwd=folder,
        env=dict(
            os.environ,
            PYTHONPATH=str(unpacked),
            COCO_ROOT=str(coco),
            SHAPES_ROOT=str(shapes_root),
        ),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    # MMEngine warns so if it does not find a scope.
    assert 'Failed to' not in done.stdout + done.stderr
    return folder, done.stdout.split('-- tool --\n')


def pictures(root):
    return sorted((root / 'val').glob('*.*'))


def test_user_config_inherits_ours_without_a_clone(anywhere, unpacked):
    text = anywhere[1][0].splitlines()
    assert text[0] == f'from {unpacked / "mobilevig_det" / "__init__.py"}'
    assert [line for line in text if line.startswith(('built', 'hub'))] == [
        'built MaskRCNN ti 5',
        'built LinearLR',
        'built MultiStepLR',
        'hub s',
    ]


def test_tools_work_without_a_clone(anywhere, shapes_root):
    folder, (_, refused, trained, tested, inferred, *others) = anywhere
    assert "end mobilevig_det test: There is no checkpoint file 'no.pth'" in refused
    assert 'end' not in [t.split()[0] for t in (trained + tested).splitlines() if t]
    assert 'Average Precision' in tested
    assert (folder / 'work_dirs/mobilevig_ti_fpn_shapes/epoch_1.pth').is_file()
    found = json.loads((folder / 'work_dirs/infer/predictions.json').read_text())
    assert len(found['images']) == len(pictures(shapes_root)) == 4
    assert 'needs a clone of the repository' in others[0]
    assert others[1].startswith('usage: run_onnx.py')


def test_index_lists_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob('configs/*/metafile.yml')
    )
