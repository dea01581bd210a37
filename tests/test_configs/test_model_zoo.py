"""The model zoo page against the models and the authors' logs."""

import csv
import re
from pathlib import Path

from mobilevig_det.apis.cli import load_config
from mobilevig_det.checkpoints import weights

import pytest
import yaml
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from reference import ARCHS

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
    (collection,) = metafile['Collections']
    assert collection['README'] == f'configs/{zoo}/README.md'
    for entry in metafile['Models']:
        assert entry['Config'] == f'configs/{zoo}/{entry["Name"]}.py'
        assert (ROOT / entry['Config']).is_file()
        assert entry['In Collection'] == collection['Name']
        assert entry.get('Weights', '') in (folder / 'README.md').read_text()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'configs/{zoo}/metafile.yml' in index['Import']


def test_imagenet_says_whose_figures_they_are():
    page = (ROOT / 'configs' / 'imagenet' / 'README.md').read_text()
    rows = re.findall(r'^\|.*\(mobilevig_\w+_300e\.py\).*$', page, re.M)
    assert len(rows) == len(ARCHS)
    assert all('| paper |' in row for row in rows)
    assert 'We did not train on ImageNet' in page


def row(arch):
    """Cells of the row of that config in the page's table."""
    (line,) = re.findall(rf'^\|.*\(mobilevig_{arch}_fpn_1x\.py\).*$', PAGE, re.M)
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
