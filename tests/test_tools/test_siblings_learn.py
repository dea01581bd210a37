"""One size of each sibling learns the shapes, from nothing, in a minute or two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tool

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['mobilevigv2_ti', 'greedyvig_s', 'rapidnet_ti', 'adaptvig_s']
)
def test_learns(name, tmp_path):
    demo = tool.load('demo')
    shapes = demo.make_shapes(tmp_path / 'shapes', 400, 50, 128)
    command = [sys.executable, str(TOOLS / 'train.py'), demo.CONFIG]
    options = [
        'train_cfg.max_epochs=2',
        'param_scheduler.1.T_max=2',
        'train_cfg.val_interval=2',
    ]
    subprocess.run(
        [*command, '--work-dir', tmp_path / 'out', *demo.backbone_options(name)]
        + options,
        env=dict(os.environ, SHAPES_ROOT=str(shapes)),
        check=True,
    )
    (log,) = (tmp_path / 'out').glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    (found,) = [row['coco/segm_mAP'] for row in rows if 'coco/segm_mAP' in row]
    assert found > 0
