"""The table of published figures against the tables of the pages that publish them."""

import re
from pathlib import Path

from mobilevig_det.checkpoints import weights
from reproduction import figures as names
from reproduction.figures import FIGURES

import pytest
import siblings
import yaml
from tool import load

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'docs' / 'siblings.md',
    ROOT / 'configs' / 'imagenet' / 'README.md',
    ROOT / 'configs' / 'mask_rcnn' / 'README.md',
]
FAMILIES = ('mobilevig', *siblings.SIZES)
# Columns with figures, and their quantities; in brackets that of the backbone.
COLUMNS = {
    'parameters': [names.BACKBONE_PARAMETERS],
    'GMACs at 800×1344': [names.GMACS],
    'ImageNet top-1': [names.TOP1],
    'Top-1 (%)': [names.TOP1],
    'box AP': [names.BOX_AP],
    'mask AP': [names.MASK_AP],
    'Params (M)': [names.PARAMETERS, names.BACKBONE_PARAMETERS],
    'FLOPs (G)': [names.FLOPS, names.BACKBONE_FLOPS],
}


def tables(page):
    """Yield the header and the rows, as lists of cells, of every table of a page."""
    for block in re.findall(r'(?:^\|.*\|\n)+', page.read_text(), re.M):
        header, line, *rows = (
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in block.splitlines()
        )
        assert set(''.join(line)) <= set('-: ')
        yield header, rows


def model_of(cells):
    """Return the model in the first cell, such as 'greedyvig_s'."""
    name = rf'({"|".join(FAMILIES)})[_-](ti|s|m|b)(?![a-z])'
    return '_'.join(re.search(name, cells[0].lower()).groups())


def published():
    """Yield zoo, model, quantity and text of every figure in the tables."""
    for page in PAGES:
        for header, rows in tables(page):
            zoo = 'imagenet' if 'imagenet' in str(page) else 'mask_rcnn'
            for cells in rows:
                for name, cell in zip(header, cells):
                    numbers = re.findall(r'\d+\.\d+', cell)
                    for quantity, number in zip(COLUMNS.get(name, ()), numbers):
                        yield zoo, model_of(cells), quantity, number


def text(figure):
    millions = figure.quantity == names.PARAMETERS
    return f'{figure.published / 1e6 if millions else figure.published:.1f}'


def place(figure):
    """Return a figure as :func:`published` does; zoos share all but some quantities."""
    shared = figure.quantity in (names.PARAMETERS, names.FLOPS)
    zoo = 'imagenet' if '300e' in figure.config else 'mask_rcnn'
    model = f'{figure.family}_{figure.arch}'
    return zoo if shared else '', model, figure.quantity, text(figure)


@pytest.mark.parametrize('family', FAMILIES)
def test_figures_in_tables_are_those_that_are_measured(family):
    shared = (names.PARAMETERS, names.FLOPS)
    pages = {
        (zoo if quantity in shared else '', model, quantity, number)
        for zoo, model, quantity, number in published()
        if model.startswith(f'{family}_')
    }
    table = {
        place(figure)
        for figure in FIGURES
        if figure.published is not None
        and figure.quantity != names.RATES
        and figure.family == family
    }
    assert pages and pages <= table


def test_figures_have_a_source_exactly_if_they_were_published():
    for figure in FIGURES:
        unknown = figure.published is None
        assert (figure.source == '–') == unknown, figure.id
        assert unknown <= (figure.tolerance in (0, names.SCORE))


def test_every_published_checkpoint_is_measured():
    """With the config of its name, also where no figure is known."""
    files = {f.weights: f.config for f in FIGURES if f.weights}
    # Pyramid ViG's files are in a release whose address is not known to us.
    names = {name for name in weights.PUBLISHED if not name.startswith('pyramidvig')}
    assert files.keys() == names
    for name, config in files.items():
        *coco, family, arch = (
            name.split('-') if name.count('-') else ('mobilevig', name)
        )
        if family == 'coco':
            coco, family = ['coco'], 'mobilevig'
        assert config == f'{family}_{arch}_{"fpn_1x" if coco else "300e"}'


@pytest.mark.parametrize('zoo', ['imagenet', 'mask_rcnn'])
def test_metafiles_have_exactly_these_figures_and_checkpoints(zoo):
    content = yaml.safe_load((ROOT / 'configs' / zoo / 'metafile.yml').read_text())
    metrics = {
        'box AP': names.BOX_AP,
        'mask AP': names.MASK_AP,
        'Top 1 Accuracy': names.TOP1,
    }
    found = {}
    for entry in content['Models']:
        values = {
            names.PARAMETERS: entry['Metadata']['Parameters'],
            names.FLOPS: float(entry['Metadata']['FLOPs'].removesuffix('G')),
        }
        for result in entry.get('Results', ()):
            for name, value in result['Metrics'].items():
                values[metrics[name]] = value
        for quantity, value in values.items():
            found[entry['Name'], quantity] = value
        files = {f.weights for f in FIGURES if f.config == entry['Name']} - {None}
        published = [weights.PUBLISHED[name] for name in files]
        addresses = [file.url for file in published if file.url]
        assert ([entry['Weights']] if 'Weights' in entry else []) == addresses
    wanted = {
        (figure.config, figure.quantity): figure.published
        for figure in FIGURES
        if figure.published is not None
        and figure.config.endswith('300e' if zoo == 'imagenet' else 'fpn_1x')
        and figure.quantity in (names.PARAMETERS, names.FLOPS, *metrics.values())
    }
    assert found == wanted


def test_ids_are_different():
    assert len({figure.id for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        assert (figure.weights is None) == (figure.what == 'configs')
        if figure.weights:
            assert figure.weights in weights.PUBLISHED


def test_flags_on_the_page_exist(capsys):
    page = (ROOT / 'docs' / 'reproduce.md').read_text()
    with pytest.raises(SystemExit):
        load('reproduce').parse_args(['--help'])
    known = set(re.findall(r'--[a-z][\w-]*', capsys.readouterr().out))
    assert set(re.findall(r'`(--[\w-]+)', page)) <= known
