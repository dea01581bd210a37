"""A clone and an installed package find the folders that come with them."""

from pathlib import Path

from mobilevig_det import paths
from mobilevig_det.config import find_config
from mobilevig_det.errors import UserError

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Create an empty package next to a folder of configs."""
    package = tmp_path / 'mobilevig_det'
    (package / '.mim').mkdir(parents=True)
    add_config(tmp_path / 'configs', 'beside')
    monkeypatch.setattr(paths, '_PACKAGE', package)
    return package


def add_config(folder, name):
    (folder / 'mask_rcnn').mkdir(parents=True)
    (folder / 'mask_rcnn' / f'{name}.py').write_text('')


def test_this_clone():
    assert paths.clone_root() == ROOT
    assert paths.shipped_folder('configs') == ROOT / 'configs'
    assert Path(find_config('mobilevig_m_fpn_1x')).is_relative_to(ROOT / 'configs')


def test_installed_package_does_not_look_beside_itself(package, tmp_path):
    add_config(package / '.mim' / 'configs', 'inside')
    assert paths.clone_root() is None
    assert paths.shipped_folder('tools') == package / '.mim' / 'tools'
    assert Path(find_config('inside')).is_relative_to(package)
    with pytest.raises(UserError, match='among ours: mask_rcnn/inside.py'):
        find_config('beside')


@pytest.mark.parametrize('kind', ['link', 'text', 'missing'])
def test_clone_with_and_without_symbolic_links(package, tmp_path, kind):
    """git on Windows writes a text file for a link; an sdist has none of them."""
    link = package / '.mim' / 'configs'
    if kind == 'link':
        link.symlink_to('../../configs')
    elif kind == 'text':
        link.write_text('../../configs')
    assert paths.clone_root() == tmp_path
    assert Path(find_config('beside')).is_relative_to(tmp_path / 'configs')
