"""The model zoo page against the models and the authors' logs."""

import csv
import re
from pathlib import Path

from mobilevig_det.checkpoints import weights
from mobilevig_det.config import load_config
from reproduction import FIGURES

import pytest
import yaml
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from reference import ARCHS
from siblings import ALL
from test_sibling_configs import SMALL_DECAY  # as in the configs, which it tests

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs' / 'mask_rcnn'
METAFILE = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
ENTRIES = {entry['Name']: entry for entry in METAFILE['Models']}
PAGE = (FOLDER / 'README.md').read_text()


@pytest.mark.parametrize('zoo', ['imagenet', 'mask_rcnn'])
def test_index(zoo):
    """Every entry has a config, and MIM finds the entries."""
    folder = ROOT / 'configs' / zoo
    metafile = yaml.safe_load((folder / 'metafile.yml').read_text())
    collections = {c['Name']: c for c in metafile['Collections']}
    assert {c['README'] for c in collections.values()} == {f'configs/{zoo}/README.md'}
    for entry in metafile['Models']:
        assert entry['Config'] == f'configs/{zoo}/{entry["Name"]}.py'
        assert (ROOT / entry['Config']).is_file()
        family = collections[entry['In Collection']]['Metadata']['Architecture'][0]
        assert family.lower() == entry['Name'].partition('_')[0]
        assert entry.get('Weights', '') in (folder / 'README.md').read_text()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'configs/{zoo}/metafile.yml' in index['Import']


def test_imagenet_says_whose_figures_they_are():
    page = (ROOT / 'configs' / 'imagenet' / 'README.md').read_text()
    rows = re.findall(r'^\|.*\(mobilevig_\w+_300e\.py\).*$', page, re.M)
    assert len(rows) == len(ARCHS)
    assert all('| paper |' in row for row in rows)
    assert 'We did not train on ImageNet' in page


def row(arch, family='mobilevig'):
    """Cells of the row of that config in the page's table."""
    (line,) = re.findall(rf'^\|.*\({family}_{arch}_fpn_1x\.py\).*$', PAGE, re.M)
    return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters(arch):
    init_default_scope('mmdet')
    entry = ENTRIES[f'mobilevig_{arch}_fpn_1x']
    detector = MODELS.build(load_config(f'mobilevig_{arch}_fpn_1x').model)
    whole, backbone = (
        sum(p.numel() for p in module.parameters())
        for module in (detector, detector.backbone)
    )
    assert entry['Metadata']['Parameters'] == whole
    assert row(arch)[1] == f'{whole / 1e6:.1f} ({backbone / 1e6:.1f})'


@pytest.mark.parametrize('arch, epoch', [('m', 12), ('b', 10)])
def test_published_results(arch, epoch):
    """Those of the epoch of the published file, as in the authors' log."""
    entry = ENTRIES[f'mobilevig_{arch}_fpn_1x']
    found = {
        name: value
        for result in entry['Results']
        for name, value in result['Metrics'].items()
    }
    (log,) = (ROOT / 'mobilevig_det').glob(f'**/coco_1x_{arch}_val.csv')
    with log.open() as file:
        rows = {
            int(r['epoch']): r
            for r in csv.DictReader(line for line in file if not line.startswith('#'))
        }
    expected = [
        round(100 * float(rows[epoch][f'{task}_mAP']), 1) for task in ('bbox', 'segm')
    ]
    assert [found['box AP'], found['mask AP']] == expected
    assert row(arch)[4:6] == [str(ap) for ap in expected]
    assert f'epoch {epoch}' in ' '.join(row(arch))
    url = weights.REPOSITORY + weights.PUBLISHED[f'coco-{arch}'].path
    assert entry['Weights'] == url and url in PAGE


@pytest.mark.parametrize('arch', ['ti', 's'])
def test_nothing_claimed_that_was_not_run(arch):
    entry = ENTRIES[f'mobilevig_{arch}_fpn_1x']
    assert 'Results' not in entry and 'Weights' not in entry
    assert row(arch)[4:6] == ['–', '–']


@pytest.mark.parametrize('family, size', ALL)
def test_recipe_of_siblings(family, size):
    """Theirs where they published a run, else that of a size with one."""
    (recipe,) = (c for c in row(size, family) if 'decay' in c)
    whose, decay = recipe.split(', decay ')
    theirs = f'coco-{family}-{size}' in weights.PUBLISHED
    assert (whose == 'published') == theirs == ('no run' not in str(row(size, family)))
    assert decay == ('0.0001' if (family, size) in SMALL_DECAY else '0.05')
    if not theirs:
        other = whose.removesuffix("'s").lower()
        (same,) = (c for c in row(other, family) if 'decay' in c)
        assert same == f'published, decay {decay}'


@pytest.mark.parametrize('zoo', ['imagenet', 'mask_rcnn'])
def test_who_says_so(zoo):
    """The siblings' rows name the source that the table of figures has."""
    said = {
        "paper's abstract": 'abstract',
        'iFormer paper, ICLR 2025': 'as the iFormer paper (ICLR 2025) reports it',
        "its file's name": "its file's name",
        "paper's abstract, schedule not named": 'abstract; the schedule is not',
    }
    page = (ROOT / 'configs' / zoo / 'README.md').read_text()
    known = [
        f
        for f in FIGURES
        if f.family != 'mobilevig' and f.what != 'configs' and f.published is not None
    ]
    for figure in known:
        if (ROOT / 'configs' / zoo / f'{figure.config}.py').is_file():
            (line,) = re.findall(rf'^\|.*\({figure.config}\.py\).*$', page, re.M)
            assert f'| {said[figure.source]}' in line
    # Of MobileViGv2's AP only differences were published.
    assert not any(f.family == 'mobilevigv2' and f.what == 'coco' for f in known)
