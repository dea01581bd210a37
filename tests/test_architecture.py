"""docs/architecture.md names what is there."""

import json
import pkgutil
import re
from pathlib import Path

import mobilevig_det
from mobilevig_det import MobileViG
from mobilevig_det.checkpoints.key_mapping import from_authors

import pytest
import torch
from markdown_pages import code_block

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'architecture.md').read_text()
NAMES = sorted(set(re.findall(r'`([^`\s]+)`', PAGE)))
PATHS = [name for name in NAMES if '/' in name and '://' not in name]
DOTTED = [name for name in NAMES if re.match(r'(mobilevig_det|mm\w+)\.[\w.]+$', name)]


def test_it_names_some():
    assert len(PATHS) > 10 and len(DOTTED) > 20


@pytest.mark.parametrize('path', PATHS)
def test_path(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('name', DOTTED)
def test_name(name):
    pkgutil.resolve_name(name)


def test_drawing_has_every_room():
    drawing = code_block('architecture.md', 'mermaid', 'flowchart')
    drawn = set(re.findall(r'^ +(\w+)\["<b>', drawing, re.M))
    package = Path(mobilevig_det.__file__).parent
    rooms = {path.parent.name for path in package.glob('*/__init__.py')}
    assert drawn == rooms | {'tools', 'errors'}


def test_maps_of_the_image():
    """The sizes that step 4 tells, in order."""
    told = re.findall(r'(\d+)(?:\schannels)?\s+at\s(\d+)×(\d+)', PAGE)
    with torch.inference_mode():
        maps = MobileViG('m').eval()(torch.zeros(1, 3, 800, 1216))
    assert [tuple(map(int, size)) for size in told] == [m.shape[1:] for m in maps]


def test_key_of_the_weight():
    theirs, ours = re.findall(r'`(\S+\.graph_conv\.\S+\.weight)`', PAGE)
    keys = json.loads((ROOT / 'tests/data/official_state_dict_m.json').read_text())
    assert from_authors({key: key for key in keys})[ours] == theirs
    told = re.search(rf'`{re.escape(theirs)}`, \(([\d, ]+)\)', PAGE)[1]
    shape = tuple(map(int, told.split(',')))
    assert shape == tuple(keys[theirs]) == MobileViG('m').state_dict()[ours].shape
