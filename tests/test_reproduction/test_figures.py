"""The table of published figures against the pages that publish them."""

import re
from pathlib import Path

from mobilevig_det.checkpoints import weights
from reproduction import FIGURES
from reproduction import figures as names

import pytest
import siblings
import yaml
from reference import ARCHS
from tool import load

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'configs' / 'imagenet' / 'README.md',
    ROOT / 'configs' / 'mask_rcnn' / 'README.md',
]
FAMILIES = ('mobilevig', *siblings.SIZES)
# Columns with figures, and what is in them; in brackets that of the backbone.
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
# Of a training, the authors' log has it; of our machine, docs/benchmark.md.
NOT_MEASURED = {'Mem (GB)', 'ms'}


def tables(page):
    """Header and rows, as lists of cells, of every table of a page."""
    for block in re.findall(r'(?:^\|.*\|\n)+', page.read_text(), re.M):
        header, line, *rows = (
            [cell.strip() for cell in line.strip('|').split('|')]
            for line in block.splitlines()
        )
        assert set(''.join(line)) <= set('-: ')
        yield header, rows


def model_of(cells):
    """'greedyvig_s', as the first cell says."""
    name = rf'({"|".join(FAMILIES)})[_-](ti|s|m|b)(?![a-z])'
    return '_'.join(re.search(name, cells[0].lower()).groups())


def published():
    """(zoo, model, what is measured, its text) of every figure in the tables."""
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
                            yield zoo, model_of(cells), quantity, number
                    elif re.fullmatch(r'[\d.]+', cell):
                        raise AssertionError(f'{page}: what is in {name}?')


def text(figure):
    millions = figure.quantity == names.PARAMETERS
    return f'{figure.published / 1e6 if millions else figure.published:.1f}'


def place(figure):
    """Of parameters and FLOPs the zoo tells of what; the rest is the only one."""
    shared = figure.quantity in (names.PARAMETERS, names.FLOPS)
    zoo = 'imagenet' if '300e' in figure.config else 'mask_rcnn'
    model = f'{figure.family}_{figure.arch}'
    return zoo if shared else '', model, figure.quantity, text(figure)


@pytest.mark.parametrize('family', FAMILIES)
def test_every_published_figure_is_measured_and_the_other_way_round(family):
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
    assert pages == table
    # Seven of each size without data; top-1 and AP where we know who says so.
    sizes = siblings.SIZES.get(family, ARCHS)
    scores = dict(mobilevig=8, mobilevigv2=4, greedyvig=3, rapidnet=1, adaptvig=3)
    assert len(table) == 7 * len(sizes) + scores[family]


def test_no_score_without_a_source():
    """Of the siblings: what the facts mark as verified, and nothing else."""
    known = {
        (f.config, f.quantity): (f.published, f.source)
        for f in FIGURES
        if f.what != 'configs' and f.published is not None and f.family != 'mobilevig'
    }
    abstract, iformer = "paper's abstract", 'iFormer paper, ICLR 2025'
    assert known == {
        ('mobilevigv2_ti_300e', names.TOP1): (77.7, abstract),
        ('mobilevigv2_s_300e', names.TOP1): (79.8, iformer),
        ('mobilevigv2_m_300e', names.TOP1): (81.7, iformer),
        ('mobilevigv2_b_300e', names.TOP1): (83.4, abstract),
        ('greedyvig_s_300e', names.TOP1): (81.1, abstract),
        ('greedyvig_m_300e', names.TOP1): (82.9, "its file's name"),
        ('greedyvig_b_300e', names.TOP1): (83.9, abstract),
        ('rapidnet_ti_300e', names.TOP1): (76.3, abstract),
        ('adaptvig_m_300e', names.TOP1): (82.6, abstract),
        ('adaptvig_m_fpn_1x', names.BOX_AP): (44.8, f'{abstract}, schedule not named'),
        ('adaptvig_m_fpn_1x', names.MASK_AP): (41.1, f'{abstract}, schedule not named'),
    }
    for figure in FIGURES:
        unknown = figure.published is None
        assert (figure.source == '–') == unknown, figure.id
        assert unknown <= (figure.tolerance in (0, names.SCORE))


def test_every_published_file_is_measured():
    """Once as a file of the configs of its name, also where no figure is known."""
    files = {f.weights: f.config for f in FIGURES if f.weights}
    assert files.keys() == weights.PUBLISHED.keys()
    for name, config in files.items():
        *coco, family, arch = (
            name.split('-') if name.count('-') else ('mobilevig', name)
        )
        if family == 'coco':
            coco, family = ['coco'], 'mobilevig'
        assert config == f'{family}_{arch}_{"fpn_1x" if coco else "300e"}'


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
        published = [weights.PUBLISHED[name] for name in files]
        addresses = [
            file.repository + file.path
            for file in published
            if file.repository and file.path
        ]
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
