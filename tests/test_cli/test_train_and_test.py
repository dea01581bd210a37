"""Train, resume and test from the command line, on a tiny generated set."""

import json
import pickle
from unittest.mock import Mock

from mobilevig_det.cli import runner
from mobilevig_det.inference.visualization import DetectionVisualizer
from mobilevig_det.mmcv_ops import mmcv_ext

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tool import SMALL, load, refusal, run

CONFIG = 'configs/mask_rcnn/mobilevig_ti_fpn_shapes.py'


@pytest.fixture(scope='module')
def trained(shapes_root, tmp_path_factory):
    """The work dir of two epochs of two iterations, and of a third one after
    a resume; nothing of it in the folder where the tools are called."""
    work_dir = tmp_path_factory.mktemp('work') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES_ROOT', str(shapes_root))
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))
        for epochs, resume in ((2, []), (3, ['--resume'])):
            assert (
                run(
                    'train',
                    CONFIG,
                    '--work-dir',
                    work_dir,
                    *resume,
                    *SMALL,
                    'default_hooks.checkpoint.max_keep_ckpts=-1',
                    f'train_cfg.max_epochs={epochs}',
                )
                == 0
            )
        yield work_dir


def log_rows(work_dir):
    """What was logged of training, in order."""
    lines = [
        line
        for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    return [row for row in map(json.loads, lines) if 'loss' in row]


def test_resume_continues_where_it_stopped(trained):
    assert [(row['epoch'], row['step']) for row in log_rows(trained)] == [
        (1, 1),
        (1, 2),
        (2, 3),
        (2, 4),
        (3, 5),
        (3, 6),
    ]
    old, new = (
        torch.load(trained / f'epoch_{epoch}.pth', weights_only=True)
        for epoch in (2, 3)
    )
    assert (old['meta']['iter'], new['meta']['iter']) == (4, 6)
    # The moments came back too: AdamW has counted all six steps.
    steps = {int(state['step']) for state in new['optimizer']['state'].values()}
    assert steps == {6}
    assert new['optimizer']['param_groups'][0]['fused']


def test_training_changes_every_weight(trained):
    old, new = (
        torch.load(trained / f'epoch_{epoch}.pth', weights_only=True)
        for epoch in (1, 3)
    )
    same = [
        key
        for key, value in new['state_dict'].items()
        if torch.equal(value, old['state_dict'][key])
    ]
    assert not same


def test_test_prints_ap_and_saves_what_was_asked(trained, tmp_path, capfd):
    assert (
        run(
            'test',
            CONFIG,
            trained / 'epoch_3.pth',
            '--work-dir',
            tmp_path,
            '--out',
            tmp_path / 'predictions.pkl',
            '--show-dir',
            'pictures',
            *SMALL,
        )
        == 0
    )
    printed = capfd.readouterr().out
    assert printed.count('Average Precision') == 12  # boxes, masks
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4
    masks = predictions[0]['pred_instances']['masks']
    assert all(tuple(mask['size']) == (64, 64) for mask in masks)
    assert len(list(tmp_path.glob('*/pictures/*'))) == 4
    assert DetectionVisualizer.check_instance_created('visualizer')  # which drew them
    metrics = json.loads(next(tmp_path.glob('*/*.json')).read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)


def test_tta_tests_boxes(trained, tmp_path, capfd):
    assert (
        run(
            'test',
            CONFIG,
            trained / 'epoch_3.pth',
            '--work-dir',
            tmp_path,
            '--tta',
            *SMALL,
        )
        == 0
    )
    printed, said = capfd.readouterr()
    assert 'masks are not evaluated' in printed + said
    assert printed.count('Average Precision') == 6


def test_fuse_gives_the_same_predictions(trained, tmp_path):
    scores = []
    for flags in ([], ['--fuse']):
        out = tmp_path / 'predictions.pkl'
        assert (
            run(
                'test',
                CONFIG,
                trained / 'epoch_3.pth',
                '--work-dir',
                tmp_path,
                '--out',
                out,
                *flags,
                *SMALL,
            )
            == 0
        )
        scores.append(
            np.concatenate(
                [
                    item['pred_instances']['scores']
                    for item in pickle.loads(out.read_bytes())
                ]
            )
        )
    assert len(scores[0]) > 0
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)


def test_evaluator_equals_pycocotools(shapes_root):
    """Truths that were shifted, dropped and relabelled, as predictions."""
    rng = np.random.default_rng(0)
    truth = COCO(str(shapes_root / 'annotations' / 'instances_val.json'))
    metric = CocoMetric(
        ann_file=str(shapes_root / 'annotations' / 'instances_val.json'),
        metric=['bbox', 'segm'],
    )
    classes = [truth.cats[i]['name'] for i in sorted(truth.cats)]
    metric.dataset_meta = dict(classes=classes)
    found = []
    for image_id, image in truth.imgs.items():
        boxes, masks, labels, scores = [], [], [], []
        for ann in truth.imgToAnns[image_id]:
            if rng.random() < 0.2:
                continue
            shift = int(rng.integers(0, 4))
            mask = np.roll(truth.annToMask(ann), shift, 1)
            x, y, w, h = ann['bbox']
            label = ann['category_id']
            if rng.random() < 0.2:
                label = label % 3 + 1
            boxes.append([x + shift, y, x + shift + w, y + h])
            masks.append(mask.astype(bool))
            labels.append(label - 1)
            scores.append(rng.random())
            found.append(
                dict(
                    image_id=image_id,
                    category_id=label,
                    score=scores[-1],
                    bbox=[x + shift, y, w, h],
                    segmentation=mask_api.encode(np.asfortranarray(mask)),
                )
            )
        shape = (len(boxes), image['height'], image['width'])
        metric.process(
            {},
            [
                dict(
                    img_id=image_id,
                    ori_shape=shape[1:],
                    pred_instances=dict(
                        bboxes=torch.tensor(boxes).reshape(-1, 4),
                        masks=torch.tensor(np.reshape(masks, shape)),
                        labels=torch.tensor(labels, dtype=torch.long),
                        scores=torch.tensor(scores),
                    ),
                )
            ],
        )
    got = metric.evaluate(size=len(truth.imgs))
    names = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    for kind in ('bbox', 'segm'):
        reference = COCOeval(truth, truth.loadRes(found), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        assert 0.2 < reference.stats[0] < 0.9  # a hard case, not a border one
        for name, want in zip(names, reference.stats):
            # MMDetection rounds to three places.
            assert got[f'coco/{kind}_{name}'] == pytest.approx(want, abs=6e-4)


def test_bad_checkpoints(trained, tmp_path):
    assert 'no checkpoint file' in refusal('test', CONFIG, tmp_path / 'missing.pth')
    assert 'no checkpoint file' in refusal(
        'train', CONFIG, '--resume', tmp_path / 'missing.pth'
    )
    checkpoint = trained / 'epoch_3.pth'
    other_arch = [
        *SMALL,
        'model.backbone.arch=s',
        'model.neck.in_channels=[42,84,176,256]',
    ]
    other_arch = '--work-dir', tmp_path, *other_arch
    message = refusal('test', CONFIG, checkpoint, *other_arch)
    assert "arch='s'" in message and "has arch='ti'" in message
    message = refusal('train', CONFIG, '--resume', checkpoint, *other_arch)
    assert 'does not fit this run: backbone.' in message and 'load_from=' in message
    message = refusal(
        'test',
        CONFIG,
        checkpoint,
        '--work-dir',
        tmp_path,
        *SMALL,
        'model.roi_head.mask_head.num_classes=7',
    )
    assert 'does not fit' in message
    assert 'roi_head.mask_head.conv_logits.weight' in message


def test_flags_that_cannot_work_here(trained, tmp_path):
    if not torch.cuda.is_available():
        assert 'needs a GPU' in refusal('train', CONFIG, '--amp', *SMALL)
    assert 'base_batch_size' in refusal(
        'train', CONFIG, '--auto-scale-lr', *SMALL, 'auto_scale_lr={}'
    )


def test_amp_scales_the_loss(trained, tmp_path, monkeypatch):
    """On a GPU, as far as a machine without one can tell."""
    tool, built = load('train'), []
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    monkeypatch.setattr(runner, 'build_runner', lambda cfg: built.append(cfg) or Mock())
    tool.main([CONFIG, '--amp', '--work-dir', str(tmp_path), *SMALL])
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    weight = torch.nn.Parameter(torch.ones(1))
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            optimizer=torch.optim.AdamW([weight]),
            **{
                key: value
                for key, value in built[0].optim_wrapper.items()
                if key not in ('optimizer', 'paramwise_cfg')
            },
        )
    )
    assert type(wrapper) is amp_optimizer_wrapper.AmpOptimWrapper
    assert wrapper._scale_update_param is None  # dynamic
    assert wrapper.cast_dtype is None  # what autocast takes: float16


@pytest.mark.parametrize('compiled', [False, True])
def test_amp_in_bfloat16(trained, tmp_path, monkeypatch, compiled):
    tool, built = load('train'), []
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    monkeypatch.setattr(mmcv_ext, 'is_compiled', lambda: compiled)
    monkeypatch.setattr(runner, 'build_runner', lambda cfg: built.append(cfg) or Mock())
    flags = ['--amp', '--amp-dtype', 'bfloat16', '--work-dir', str(tmp_path), *SMALL]
    if compiled:
        with pytest.raises(SystemExit, match='no bfloat16 kernels.*mmcv-lite'):
            tool.main([CONFIG, *flags])
        return
    tool.main([CONFIG, *flags])
    cfg = built[0].optim_wrapper
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    weight = torch.nn.Parameter(torch.ones(1))
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type=cfg.type,
            dtype=cfg.dtype,
            loss_scale=cfg.loss_scale,
            optimizer=torch.optim.AdamW([weight]),
        )
    )
    assert wrapper.cast_dtype is torch.bfloat16
    assert wrapper._scale_update_param == 1.0
