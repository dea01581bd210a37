"""demo/tutorial.ipynb runs with small settings."""

import contextlib
import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / 'demo' / 'tutorial.ipynb').read_text(encoding='utf-8'))
# An untrained model has low scores.
SETTINGS = dict(NUM_TRAIN=8, NUM_VAL=4, EPOCHS=1, SCORE_THR=0.0, PICTURE='own.png')
# Before the own picture: few objects, so that some of it is left, with boxes like
# the anchors and masks that are not empty, though nothing has been learned.
BEFORE = """
model = detector.model
model.roi_head.test_cfg.update(max_per_img=5, mask_thr_binary=1e-6)
for layer in (model.rpn_head.rpn_reg, model.roi_head.bbox_head.fc_reg):
    torch.nn.init.zeros_(layer.weight)
"""
# After it: its masks, and the picture with boxes and names alone.
AFTER = """
result = detector(picture)
cv2.imwrite('masks.png', result.masks.any(0).astype('uint8') * 255)
result.rles = None
cv2.imwrite('without_masks.png', result.draw())
"""


def cells(kind):
    return [
        ''.join(cell['source'])
        for cell in NOTEBOOK['cells']
        if cell['cell_type'] == kind
    ]


def with_settings(source):
    """The source with our values instead of the notebook's, each set once."""
    for name, value in SETTINGS.items():
        source, changes = re.subn(
            rf'^{name} = [^\s#]+', f'{name} = {value!r}', source, flags=re.M
        )
        assert changes == 1, name
    return source


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the notebook ran, on a picture of an odd size."""
    folder = tmp_path_factory.mktemp('notebook')
    picture = np.full((301, 447, 3), (60, 90, 30), np.uint8)
    cv2.circle(picture, (150, 135), 90, (200, 120, 40), -1)
    cv2.imwrite(str(folder / 'own.png'), picture)
    sources = {
        cell['id']: ''.join(cell['source'])
        for cell in NOTEBOOK['cells']
        if cell['cell_type'] == 'code' and cell['id'] != 'install'
    }
    sources['own'] = '\n'.join([BEFORE, sources['own'], AFTER])
    program = with_settings('\n'.join(sources.values()))
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MPLBACKEND', 'Agg')
        patch.delenv('SHAPES_ROOT', raising=False)
        patch.chdir(folder)
        with contextlib.redirect_stdout(printed):
            exec(compile(program, 'tutorial.ipynb', 'exec'), dict(__name__='__main__'))
    (folder / 'stdout').write_text(printed.getvalue())
    return folder


def test_installs_with_one_line():
    first = cells('code')[0]
    assert first == '%pip install "mobilevig_det[openmmlab]"'
    # Everything else runs without IPython.
    assert not re.search(r'^\s*[%!]', '\n'.join(cells('code')[1:]), re.M)


def test_is_saved_without_outputs():
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    assert NOTEBOOK['metadata']['kernelspec']['name'] == 'python3'
    ids = [cell['id'] for cell in NOTEBOOK['cells']]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK['cells']:
        if cell['cell_type'] == 'code':
            assert cell['outputs'] == [] and cell['execution_count'] is None


def test_links_lead_to_files():
    text = '\n'.join(cells('markdown'))
    links = re.findall(r'\]\(([^)]+)\)', text)
    assert links and all((ROOT / 'demo' / link).is_file() for link in links)


def test_trains_and_evaluates(folder):
    printed = (folder / 'stdout').read_text()
    assert re.search(r"^operators +(mobilevig_det's|compiled)", printed, re.M)
    for name in ('bbox', 'segm'):
        assert re.search(rf'^{name}: AP [01]\.\d+, AP50 [01]\.\d+$', printed, re.M)
    assert (folder / 'work_dirs' / 'tutorial' / 'epoch_1.pth').is_file()


def test_draws_masks_on_the_own_picture(folder):
    own, drawn, without_masks, masks = (
        cv2.imread(str(folder / name))
        for name in (
            'own.png',
            'work_dirs/tutorial/own_picture.png',
            'without_masks.png',
            'masks.png',
        )
    )
    masks = masks.any(2)
    assert masks.sum() > 1000
    # All but what the names cover.
    assert (drawn != without_masks).any(2)[masks].mean() > 0.5
    # What nothing is drawn over has its own colours.
    assert (own == drawn).all(2).mean() > 0.1
