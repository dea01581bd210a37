"""The model zoo's metafiles against the configs and the authors' logs."""

import csv
from pathlib import Path

from mobilevig_det.checkpoints import weights

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs' / 'mask_rcnn'
METAFILE = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
ENTRIES = {entry['Name']: entry for entry in METAFILE['Models']}


@pytest.mark.parametrize('zoo', ['imagenet', 'mask_rcnn'])
def test_every_entry_has_a_config_and_is_indexed(zoo):
    folder = ROOT / 'configs' / zoo
    metafile = yaml.safe_load((folder / 'metafile.yml').read_text())
    collections = {c['Name']: c for c in metafile['Collections']}
    assert {c['README'] for c in collections.values()} == {f'configs/{zoo}/README.md'}
    for entry in metafile['Models']:
        assert entry['Config'] == f'configs/{zoo}/{entry["Name"]}.py'
        assert (ROOT / entry['Config']).is_file()
        family = collections[entry['In Collection']]['Metadata']['Architecture'][0]
        assert family.lower() == entry['Name'].partition('_')[0]
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert f'configs/{zoo}/metafile.yml' in index['Import']


@pytest.mark.parametrize('arch, epoch', [('m', 12), ('b', 10)])
def test_published_results_are_those_of_the_log(arch, epoch):
    """At the epoch of the published file."""
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
    url = weights.REPOSITORY + weights.PUBLISHED[f'coco-{arch}'].path
    assert entry['Weights'] == url
