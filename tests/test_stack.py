"""Importing the package reports versions that do not work together, and the fix."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from mobilevig_det.versions import DISTRIBUTIONS

import pytest

ROOT = Path(__file__).parents[1]
GOOD = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'torch': '2.13.0'}
ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'torch': '2.13.0',
}
MODULES = {name: module for module, names in DISTRIBUTIONS.items() for name in names}


def import_under(folder, installed, operators='', pkg_resources=True):
    """Import the package where only these fake packages are installed.

    The fake MMDetection has its range of mmcv versions. Each package prints when it is
    imported, which shows whether our check came first.
    """
    for name, version in installed.items():
        info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir(parents=True)
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        )
        package = folder / MODULES.get(name, name)
        package.mkdir(exist_ok=True)
        text = f'print("imported {package.name}")\n'
        if name == 'mmdet' and version[0] == '3':
            text += (
                "mmcv_minimum_version = '2.0.0rc4'\nmmcv_maximum_version = '2.2.0'\n"
            )
        (package / '__init__.py').write_text(text)
        if MODULES.get(name) == 'mmcv' and operators is not None:
            (package / '_ext.py').write_text(operators)
        if name == 'mmengine':
            (package / 'utils').mkdir()
            (package / 'utils' / 'package_utils.py').write_text(
                'import pkg_resources\n'
            )
    if pkg_resources:
        (folder / 'pkg_resources.py').write_text('')
    done = subprocess.run(
        [sys.executable, '-S', '-c', 'import mobilevig_det'],
        text=True,
        env=dict(os.environ, PYTHONPATH=f'{folder}{os.pathsep}{ROOT}'),
        capture_output=True,
        cwd=folder,
    )
    assert done.returncode
    return done.stderr.strip().splitlines()[-1], done.stdout


def without(*names, **changed):
    return {**{k: v for k, v in GOOD.items() if k not in names}, **changed}


@pytest.mark.parametrize(
    'installed, options, expected',
    [
        (
            without('mmengine', 'mmcv', 'mmdet'),
            {},
            ['mmengine is not installed', 'pip install mmengine'],
        ),
        (
            without('mmdet'),
            {},
            ['mmdet is not installed', 'pip install "mmdet>=3.2,<4"'],
        ),
        (
            without('mmcv'),
            {},
            ['mmcv is not installed', 'pip install "mmcv-lite>=2.0,<2.2"'],
        ),
        (without(mmdet='2.28.2'), {}, ['mmdet 2.28.2', 'pip install "mmdet>=3.2,<4"']),
        (
            without(mmcv='2.2.0'),
            {},
            [
                'mmcv 2.2.0',
                'mmdet 3.3.0',
                'pip uninstall -y mmcv && pip install "mmcv-lite>=2.0.0rc4,<2.2.0"',
            ],
        ),
        (without(mmcv='1.7.2'), {}, ['mmcv 1.7.2', '"mmcv-lite>=2.0.0rc4,<2.2.0"']),
        (
            {**GOOD, 'mmcv-lite': '2.1.0'},
            {},
            [
                'mmcv is installed twice',
                'mmcv 2.1.0 and mmcv-lite 2.1.0',
                'pip uninstall -y mmcv mmcv-lite && pip install "mmcv-lite>=2.0,<2.2"',
            ],
        ),
        (
            {**GOOD, 'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12'},
            {},
            [
                'mmengine is installed twice',
                'mmengine 0.10.7 and onedl-mmengine 0.10.12',
                'pip uninstall -y mmengine onedl-mmengine mmcv onedl-mmcv mmdet',
            ],
        ),
        (
            {**without('mmcv'), 'onedl-mmcv': '2.3.6'},
            {},
            ['mmcv 2.3.6', 'mmdet 3.3.0', 'onedl-mmdetection'],
        ),
        (
            GOOD,
            dict(pkg_resources=False),
            ['pkg_resources', 'pip install "setuptools<81"'],
        ),
        (
            GOOD,
            dict(operators='raise ImportError("_ext.so: undefined symbol: x")'),
            [
                'another torch than 2.13.0',
                'undefined symbol',
                'pip uninstall -y mmcv && pip install "mmcv-lite>=2.0,<2.2"',
            ],
        ),
        (
            ONEDL,
            dict(operators='raise ImportError("_ext.so: undefined symbol: x")'),
            [
                'another torch than 2.13.0',
                'pip uninstall -y onedl-mmcv && pip install --no-cache-dir onedl-mmcv',
            ],
        ),
        (
            GOOD,
            dict(operators='raise ImportError("libGL.so.1: cannot open")'),
            ['libGL.so.1', 'pip install opencv-python-headless'],
        ),
    ],
)
def test_mismatch_is_reported_with_its_fix(tmp_path, installed, options, expected):
    message, imported = import_under(tmp_path, installed, **options)
    assert message.startswith('mobilevig_det.versions.StackError: ')
    for part in expected:
        assert part in message
    # No message asks for a compiler.
    assert 'MMCV_WITH_OPS' not in message
    # Only the last check needs to import anything.
    assert not imported or 'operators' in options


@pytest.mark.parametrize('operators', ['', None], ids=['compiled', 'none'])
@pytest.mark.parametrize(
    'installed',
    [GOOD, {**without('mmcv'), 'mmcv-lite': '2.1.0'}, ONEDL],
    ids=['mmcv', 'mmcv-lite', 'onedl'],
)
def test_supported_versions_are_accepted(tmp_path, installed, operators):
    message, imported = import_under(tmp_path, installed, operators)
    assert 'StackError' not in message
    assert "'mmdet.registry'" in message  # reached our own imports
    assert 'imported mmdet' in imported


def tested_versions():
    """Return the tested versions of the stack that is installed."""
    stack = 'openmmlab'
    try:
        metadata.version('onedl-mmdetection')
        stack = 'onedl'
    except metadata.PackageNotFoundError:
        pass
    text = (ROOT / 'requirements' / f'{stack}.txt').read_text()
    return dict(re.findall(r'^([\w-]+)==(\S+)$', text, re.M))


def test_installed_versions_are_the_tested_ones():
    """In an environment that `make` has set up."""
    if not Path(sys.prefix, 'made_from').is_file():
        pytest.skip('not an environment of `make test`')
    if os.environ.get('TORCH'):
        pytest.skip('another torch was asked for')
    versions = tested_versions()
    assert len(versions) == 6
    for name, version in versions.items():
        assert metadata.version(name).partition('+')[0] == version


def test_versions_pinned_in_documents_are_tested_ones():
    stated = set()
    for stack in ('openmmlab', 'onedl'):
        stated |= set((ROOT / 'requirements' / f'{stack}.txt').read_text().splitlines())
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]:
        for quoted in re.findall(
            r'(?:onedl-)?(?:mmengine|mmcv|mmcv-lite|mmdet|mmdetection)==[\d.]+\d',
            page.read_text(),
        ):
            assert quoted in stated, page
