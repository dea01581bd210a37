"""docs/architecture.md names files, modules and packages that exist."""

import pkgutil
import re
from pathlib import Path

import mobilevig_det

import pytest
from markdown_pages import code_block

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'architecture.md').read_text()
NAMES = sorted(set(re.findall(r'`([^`\s]+)`', PAGE)))
PATHS = [name for name in NAMES if '/' in name and '://' not in name]
DOTTED = [name for name in NAMES if re.match(r'(mobilevig_det|mm\w+)\.[\w.]+$', name)]


@pytest.mark.parametrize('path', PATHS)
def test_path_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('name', DOTTED)
def test_name_can_be_imported(name):
    pkgutil.resolve_name(name)


def test_drawing_has_every_package():
    drawing = code_block('architecture.md', 'mermaid', 'flowchart')
    drawn = set(re.findall(r'^ +(\w+)\["<b>', drawing, re.M))
    package = Path(mobilevig_det.__file__).parent
    assert drawn >= {path.parent.name for path in package.glob('*/__init__.py')}
