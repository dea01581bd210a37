"""What `make demo` does around training and testing."""

import sys

from mobilevig_det.cli import demo
from mobilevig_det.datasets import shapes
from mobilevig_det.errors import UserError

import numpy as np
import pytest
from mmcv import imread, imwrite
from mmdet.structures.mask import encode_mask_results
from mmengine.fileio import dump
from pycocotools.coco import COCO


def test_reads_the_aps_that_test_printed():
    line = (
        'Epoch(test) [9/9]    coco/bbox_mAP: {}  coco/bbox_mAP_50: 0.8  '
        'coco/bbox_mAP_l: -1.0  coco/segm_mAP: 0.5210  '
        'coco/segm_mAP_50: 0.7  coco/segm_mAP_75: -1.0000  time: 1\n'
    )
    found = demo.average_precisions(line.format(0.1) + line.format(0.6))
    assert found == dict(
        bbox_mAP=0.6, bbox_mAP_50=0.8, segm_mAP=0.521, segm_mAP_50=0.7, segm_mAP_75=-1
    )


def test_pictures_show_truth_beside_predictions(tmp_path, monkeypatch):
    root = shapes.make_shapes(tmp_path / 'shapes', 1, 9, 128)
    monkeypatch.setenv('SHAPES_ROOT', str(root))
    # What a perfect model would find, but for the last object of an image
    # (its score is too low to be drawn).
    coco = COCO(str(shapes.annotation_file(root, 'val')))
    predictions, masks = [], {}
    for image in coco.loadImgs(coco.getImgIds()):
        anns = coco.loadAnns(coco.getAnnIds(image['id'], iscrowd=0))
        found = [coco.annToMask(ann).astype(bool) for ann in anns]
        masks[image['id']] = found
        boxes = np.array([ann['bbox'] for ann in anns]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predictions.append(
            dict(
                pred_instances=dict(
                    bboxes=boxes,
                    labels=np.array([a['category_id'] - 1 for a in anns], np.int64),
                    scores=np.array([0.9] * (len(anns) - 1) + [0.3] * bool(anns)),
                    masks=encode_mask_results(found),
                )
            )
        )
    dump(predictions, tmp_path / 'predictions.pkl')
    demo.draw_pictures(tmp_path / 'predictions.pkl', tmp_path / 'pictures')
    paths = sorted((tmp_path / 'pictures').glob('*.png'))
    assert len(paths) == 9
    for number, path in enumerate(paths, 1):
        picture = imread(str(path))
        assert picture.shape == (20 + 256, 512, 3)
        assert (picture[:20] < 100).any()  # the captions
        picture = picture[20:]
        image = (
            imread(str(root / 'val' / f'{number:06d}.jpg')).repeat(2, 0).repeat(2, 1)
        )
        left, right = picture[:, :256], picture[:, 256:]
        for side, drawn in ((left, masks[number]), (right, masks[number][:-1])):
            changed = (side != image).any(-1)
            assert changed.mean() < 0.9  # not everything
            for mask in drawn:
                assert changed[mask.repeat(2, 0).repeat(2, 1)].mean() > 0.9
        if masks[number]:
            assert (left != right).any()
        else:
            assert (left == right).all()
    curves = np.full((300, 1200, 3), 255, np.uint8)
    curves[:, :600] = 0
    imwrite(curves, str(tmp_path / 'curves.png'))
    demo.join_pictures(
        tmp_path / 'pictures', tmp_path / 'curves.png', tmp_path / 'demo.jpg'
    )
    whole = imread(str(tmp_path / 'demo.jpg'))
    assert whole.shape == (2 * 276 + 256, 1024, 3)
    assert whole[570:, :500].max() < 30 and whole[570:, 520:].min() > 225


def test_reports_the_command_that_fails(tmp_path, monkeypatch, capsys):
    stamp = '01/02 03:04:05 - mmengine - INFO -'
    program = tmp_path / 'program.py'
    program.write_text(
        'import sys\n'
        f"print('{stamp} model = dict(...)')\n"
        f"print('{stamp} Epoch(train)  [1][10/20]  loss: 1.0')\n"
        "print('disk full', file=sys.stderr)\n"
        'sys.exit(len(sys.argv))\n'
    )
    monkeypatch.setattr(demo, 'PROGRAM', [sys.executable, str(program)])
    with pytest.raises(UserError, match='(?s)train failed .*code 4.*full'):
        demo.run('train', 'config', '--resume')
    # Progress is shown as it comes, and the rest is left to the logs.
    assert capsys.readouterr().out.splitlines()[1:] == [
        'Epoch(train)  [1][10/20]  loss: 1.0'
    ]
    monkeypatch.setattr(shapes, 'make_shapes', lambda root: root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='train failed'):
        demo.main([])


def test_exits_with_130_when_interrupted(monkeypatch, tmp_path, capsys):
    def interrupt(root):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, 'make_shapes', interrupt)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        demo.main([])
    assert end.value.code == 130
    assert 'resumes' in capsys.readouterr().err


def test_names_every_size_of_every_backbone():
    assert not demo.backbone_options('mobilevig_ti')
    assert len(demo.BACKBONES) == 18
    assert demo.backbone_options('greedyvig_s') == [
        '--cfg-options',
        'model.backbone.type=GreedyViG',
        'model.backbone.arch=s',
        'model.neck.in_channels=[48,96,192,384]',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['mobilevigv2_ti', 'greedyvig_s', 'rapidnet_ti', 'adaptvig_s']
)
def test_siblings_learn(name, tmp_path, monkeypatch):
    """One epoch on the shapes, and some of them are found."""
    root = shapes.make_shapes(tmp_path / 'shapes', 320, 16, 128)
    monkeypatch.setenv('SHAPES_ROOT', str(root))
    options = [*demo.backbone_options(name), 'train_cfg.max_epochs=1', 'max_epochs=1']
    log = demo.run('train', demo.CONFIG, '--work-dir', str(tmp_path / 'run'), *options)
    assert demo.average_precisions(log)['segm_mAP'] > 0
