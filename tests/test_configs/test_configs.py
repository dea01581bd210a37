"""The Mask R-CNN configs build and train as a whole."""

from mobilevig_det.config import load_config

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData


def one_batch(height=64, width=96):
    """A batch of one random image with two objects, as a pipeline packs."""
    rng = np.random.default_rng(0)
    boxes = np.array([[4, 4, 40, 44], [30, 20, 90, 60]], dtype=np.float32)
    masks = np.zeros((2, height, width), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            pad_shape=(height, width),
            scale_factor=(1.0, 1.0),
        ),
        gt_instances=InstanceData(
            bboxes=torch.from_numpy(boxes),
            labels=torch.tensor([0, 2]),
            masks=BitmapMasks(masks, height, width),
        ),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
    )
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    return dict(inputs=[torch.from_numpy(image)], data_samples=[sample])


@pytest.mark.parametrize(
    'name',
    [f'mobilevig_{arch}_fpn_1x' for arch in ('ti', 's', 'm', 'b')]
    + ['mobilevig_ti_fpn_shapes'],
)
def test_loss_reaches_every_parameter(name):
    torch.manual_seed(0)
    cfg = load_config(name)
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train()
    losses = model(**model.data_preprocessor(one_batch(), True), mode='loss')
    loss, log = model.parse_losses(losses)
    assert {'loss_rpn_cls', 'loss_cls', 'loss_mask'} <= set(log)
    assert all(torch.isfinite(value).all() for value in log.values())
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize(
    'root, folder',
    [
        (None, 'data/coco/'),
        ('/some/coco', '/some/coco/'),
        ('/some/coco/', '/some/coco/'),
    ],
)
def test_coco_root(root, folder, monkeypatch):
    if root is None:
        monkeypatch.delenv('COCO_ROOT', raising=False)
    else:
        monkeypatch.setenv('COCO_ROOT', root)
    cfg = load_config('mask_rcnn/mobilevig_s_fpn_1x.py')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == folder
    for split in ('val', 'test'):
        assert (
            cfg[f'{split}_evaluator'].ann_file
            == folder + 'annotations/instances_val2017.json'
        )
