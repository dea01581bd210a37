"""docs/train_on_your_data.md: its commands, as printed and in their order.

But for one thing: training and testing get the flags that the page itself
prints for its dry run, which leave them a few images.
"""

import json
import re
import shlex
from pathlib import Path

from mobilevig_det.config import load_config

import pytest
import torch
from checkpoints import coco_checkpoint
from markdown_pages import code_blocks
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from tool import TOOLS, run

PAGE = 'train_on_your_data.md'
CLASSES = ('circle', 'square', 'triangle', 'ring', 'cross')
PER_CLASS = {
    f'roi_head.{layer}.{kind}'
    for layer in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
    for kind in ('weight', 'bias')
}


def mismatches(text):
    return set(re.findall(r'size mismatch for (\S+?):', text))


def run_printed(command, *more):
    """Run a printed command in this process; ``more`` at its end."""
    command = re.sub(r'\$\(cat (\S+)\)', lambda m: Path(m[1]).read_text(), command)
    python, tool, *argv = shlex.split(command)
    assert python == 'python' and Path(tool).is_file()
    assert run(Path(tool).stem, *argv, *more) == 0


def test_walk_through(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path('tools').symlink_to(TOOLS)
    # Stands in for what `make demo` leaves, under the name that it has there.
    demo = load_config('mobilevig_ti_fpn_shapes')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    Path('work_dirs/demo').mkdir(parents=True)
    torch.save(
        dict(
            state_dict=MODELS.build(demo.model).state_dict(),
            meta=dict(dataset_meta=dict(classes=CLASSES[:3])),
        ),
        f'work_dirs/demo/epoch_{demo.train_cfg.max_epochs}.pth',
    )

    make, dry_run, train, test = code_blocks(PAGE, 'bash')
    config, _ = code_blocks(PAGE, 'python')
    Path('five.py').write_text(config)
    few = shlex.split(dry_run)
    few = few[few.index('--cfg-options') :]

    run_printed(make)
    for split, number in (('train', 200), ('val', 40)):
        path = Path(f'data/five/annotations/instances_{split}.json')
        content = json.loads(path.read_text())
        assert len(content['images']) == number
        assert tuple(c['name'] for c in content['categories']) == CLASSES

    capfd.readouterr()
    run_printed(dry_run)
    # The layers that the page speaks of, and no other.
    assert mismatches(''.join(capfd.readouterr())) == PER_CLASS

    run_printed(train, *few)
    work_dir = Path('work_dirs/five')
    last = work_dir / (work_dir / 'last_checkpoint').read_text()
    trained = torch.load(last, weights_only=True)
    assert trained['meta']['dataset_meta']['classes'] == CLASSES
    assert trained['meta']['iter'] == 8 // 2
    (group,) = trained['optimizer']['param_groups']
    assert group['initial_lr'] == pytest.approx(0.0005)  # as the page says

    run_printed(test, *few)
    said = ''.join(capfd.readouterr())
    assert mismatches(said) == PER_CLASS  # of the training, none of the test
    # The same AP at the end of the training and in the test.
    for metric in ('bbox', 'segm'):
        tables = re.findall(
            rf'coco/{metric}_mAP: (.*?)  coco/{metric}_mAP_50: (\S+)', said
        )
        assert len(tables) == 2 and tables[0] == tables[1]
    assert len(list(Path('work_dirs/five/test').glob('*/pictures/*'))) == 4


def test_from_coco(tmp_path):
    """The two lines for a GPU: the config builds, and all of an 80-class
    checkpoint of the authors is loaded but what has one output a class."""
    config, lines = code_blocks(PAGE, 'python')
    for line in lines.splitlines():
        key = line.split(' = ')[0]
        config, count = re.subn(rf'^{key} = .*$', line, config, flags=re.M)
        assert count == 1
    path = tmp_path / 'five.py'
    path.write_text(config)
    cfg = load_config(str(path))
    init_default_scope('mmdet')
    published = MODELS.build(load_config('mobilevig_m_fpn_1x').model)
    torch.save(
        coco_checkpoint(published.state_dict(), 'm', ['thing'] * 80),
        tmp_path / cfg.load_from,
    )

    model = MODELS.build(cfg.model)
    assert model.roi_head.bbox_head.num_classes == 5
    assert model.backbone.init_cfg is None or (
        model.backbone.init_cfg['type'] != 'Pretrained'
    )
    new = {k: v.clone() for k, v in model.state_dict().items()}
    load_checkpoint(model, f'mobilevig://{tmp_path / cfg.load_from}')
    old = published.state_dict()
    for key, value in model.state_dict().items():
        if key in PER_CLASS:
            assert torch.equal(value, new[key]), key
        elif not key.startswith('backbone.'):
            assert torch.equal(value, old[key]), key
    assert not torch.equal(
        model.backbone.stem[0].conv.weight, new['backbone.stem.0.conv.weight']
    )

    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == 'data/five/'
        assert tuple(dataset.metainfo.classes) == CLASSES
    assert (
        cfg.optim_wrapper.optimizer.lr * 2 / cfg.auto_scale_lr.base_batch_size
    ) == pytest.approx(5e-5)
