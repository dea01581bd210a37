"""The table of published figures against the pages that publish them."""

import re
from pathlib import Path

from mobilevig_det.checkpoints import weights
from mobilevig_det.reproduction import FIGURES
from mobilevig_det.reproduction import figures as names

import pytest
import yaml
from tool import load

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'configs' / 'imagenet' / 'README.md',
    ROOT / 'configs' / 'mask_rcnn' / 'README.md',
]
# Columns with figures, and what is in them; in brackets that of the backbone.
COLUMNS = {
    'parameters': [names.BACKBONE_PARAMETERS],
    'GMACs at 800×1344': [names.GMACS],
    'ImageNet top-1 (paper)': [names.TOP1],
    'ImageNet-1K top-1 (paper)': [names.TOP1],
    'Top-1 (%)': [names.TOP1],
    'top-1': [names.TOP1],
    'box AP': [names.BOX_AP],
    'mask AP': [names.MASK_AP],
    'Params (M)': [names.PARAMETERS, names.BACKBONE_PARAMETERS],
    'FLOPs (G)': [names.FLOPS, names.BACKBONE_FLOPS],
}
# Of a training, not of a file: the authors' log has it.
NOT_MEASURED = {'Mem (GB)'}


def tables(page):
    """Header and rows, as lists of cells, of every table of a page."""
    for block in re.findall(r'(?:^\|.*\|\n)+', page.read_text(), re.M):
        header, line, *rows = (
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in block.splitlines()
        )
        assert set(''.join(line)) <= set('-: ')
        yield header, rows


def arch_of(cells):
    """'ti', 's', 'm' or 'b', as the first cells say in one way or another."""
    text = ' '.join(cells[:2]).lower()
    return re.search(r"(?:mobilevig[_-]|^`?'?)(ti|s|m|b)(?![a-z])", text)[1]


def published():
    """(arch, what is measured, its text) of every figure in the tables."""
    for page in PAGES:
        for header, rows in tables(page):
            if not set(header) & set(COLUMNS):
                continue
            zoo = 'imagenet' if 'imagenet' in str(page) else 'mask_rcnn'
            for cells in rows:
                for name, cell in zip(header, cells):
                    if name in NOT_MEASURED or cell == '–':
                        continue
                    if name in COLUMNS:
                        numbers = re.findall(r'\d+\.\d+', cell)
                        for quantity, number in zip(COLUMNS[name], numbers):
                            yield zoo, arch_of(cells), quantity, number
                    elif re.fullmatch(r'[\d.]+', cell):
                        raise AssertionError(f'{page}: what is in {name}?')


def text(figure):
    millions = figure.quantity == names.PARAMETERS
    return f'{figure.published / 1e6 if millions else figure.published:.1f}'


def place(figure):
    """Of parameters and FLOPs the zoo tells of what; the rest is the only one."""
    shared = figure.quantity in (names.PARAMETERS, names.FLOPS)
    zoo = 'imagenet' if '300e' in figure.config else 'mask_rcnn'
    return zoo if shared else '', figure.arch, figure.quantity, text(figure)


def test_every_published_figure_is_measured_and_the_other_way_round():
    shared = (names.PARAMETERS, names.FLOPS)
    pages = {
        (zoo if quantity in shared else '', arch, quantity, number)
        for zoo, arch, quantity, number in published()
    }
    table = {
        place(figure)
        for figure in FIGURES
        if figure.published is not None and figure.quantity != names.RATES
    }
    assert pages == table
    assert len(table) == 36


def test_the_rates_are_published():
    rates = sum(f.published for f in FIGURES if f.quantity == names.RATES)
    assert f'{rates:,}' == '7,032'
    assert '7,032' in PAGES[-1].read_text()


@pytest.mark.parametrize('zoo', ['imagenet', 'mask_rcnn'])
def test_metafiles(zoo):
    """Each figure and each file there, exactly."""
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
        paths = [weights.PUBLISHED[name].path for name in files]
        addresses = [weights.REPOSITORY + path for path in paths if path]
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


def test_the_page_names_the_flags(capsys):
    page = (ROOT / 'docs' / 'reproduce.md').read_text()
    with pytest.raises(SystemExit):
        load('reproduce').parse_args(['--help'])
    known = set(re.findall(r'--[a-z][\w-]*', capsys.readouterr().out))
    assert set(re.findall(r'`(--[\w-]+)', page)) == known - {'--help'}
