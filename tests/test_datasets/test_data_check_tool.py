"""tools/check_data.py, and when others than it check."""

import re

from mobilevig_det.datasets.data_check import (
    check_before_training,
    pointing_to_check_data,
)
from mobilevig_det.errors import UserError

import pytest
import tiny_coco
import tool
from bad_annotations import ANN, CASES, RLE
from mmdet.registry import DATASETS
from mmengine.config import Config
from torch.utils.data import DataLoader


def write_config(root, cfg=None):
    path = root / 'config.py'
    (cfg or tiny_coco.config(root)).dump(path)
    return path


def test_only_rank_0_checks(root, monkeypatch):
    (root / 'train' / '2.jpg').unlink()
    monkeypatch.setenv('RANK', '1')
    check_before_training(tiny_coco.config(root))
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(UserError):
        check_before_training(tiny_coco.config(root))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_failure_while_loading_points_to_the_tool(workers, root, capsys):
    """The image vanishes after the check before training."""
    cfg = Config.fromfile(write_config(root))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    (root / 'train' / '2.jpg').unlink()
    loader = DataLoader(dataset, num_workers=workers, collate_fn=len)
    tool_and_config = f'tools/check_data.py {root}/config.py'
    with pytest.raises(UserError, match=tool_and_config):
        with pointing_to_check_data(cfg):
            list(loader)
    assert '2.jpg' in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # not of the data
        with pointing_to_check_data(cfg):
            raise ZeroDivisionError


def test_tool_on_a_clean_set(root, capsys):
    assert tool.run('check_data', write_config(root)) == 0
    output = capsys.readouterr()
    assert output.out.endswith('Nothing found.\n')
    assert '4/4' in output.err  # the progress bar


def test_tool_reports_everything_in_one_go(root, capsys):
    data = tiny_coco.content()
    CASES['no mask'].change(data)
    CASES['RLE of another size'].change(data)
    tiny_coco.write(root, 'val', data)
    data = tiny_coco.content()
    data['annotations'] += [
        tiny_coco.annotation(200 + i, 30, 7, (200 + i, 0, 9, 9)) for i in range(12)
    ]
    tiny_coco.write(root, 'train', data)
    (root / 'train' / '1.jpg').unlink()
    (root / 'val' / '4.jpg').write_bytes(b'')

    config = write_config(root)
    assert tool.run('check_data', config) == 1
    text = capsys.readouterr().out
    for said in (
        '[STOPS TRAINING] train',
        'image 10: ',
        '1.jpg: there is no',
        '[tolerated] train',
        'box outside the image: 12',
        'annotation 209 (image 30)',
        '… and 2 more (--all)',
        ANN,
        RLE,
        'image 40: ',
        'the file is empty',
        '4 that stop training, 12 tolerated',
    ):
        assert said in text
    assert 'annotation 210' not in text
    # What stops comes first.
    assert text.index('tolerated]') > text.rindex('STOPS TRAINING]')

    assert tool.run('check_data', config, '--all', '--splits', 'train') == 1
    text = capsys.readouterr().out
    assert 'annotation 211 (image 30)' in text and 'val:' not in text


def test_tool_without_data_sets(root, capsys):
    cfg = tiny_coco.config(root)
    cfg.train_dataloader = None
    message = tool.run('check_data', write_config(root, cfg), '--splits', 'train')
    assert re.search('no COCO-format data set in train', message)
