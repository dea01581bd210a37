"""Heads that read masks in other ways than Mask R-CNN: the same losses."""

import copy

from mobilevig_det.datasets.loading import CompactBitmapMasks

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.structures import InstanceData

SIZE = 128, 160
BOXES = np.array([[5, 9, 60, 70], [40, 20, 101, 65], [90, 50, 140, 111]])


def without_files(config):
    if isinstance(config, dict):
        config.pop('init_cfg', None)
        config.pop('pretrained', None)
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, (dict, list, tuple)):
            without_files(value)


def sample(make):
    masks = np.zeros((3, *SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, BOXES):
        mask[y1:y2, x1:x2] = 1
        mask[y1 : y1 + 9, x1 : x1 + 9] = 0
    masks = make(list(masks), *SIZE)
    meta = dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0), img_id=0)
    data = DetDataSample(metainfo=meta)
    data.gt_instances = InstanceData(
        bboxes=torch.from_numpy(BOXES).float(), labels=torch.arange(3), masks=masks
    )
    data.ignored_instances = data.gt_instances[:0]
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco',
        'ms_rcnn/ms-rcnn_r50_fpn_1x_coco',
        'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco',
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco',
        'solo/decoupled-solo_r50_fpn_1x_coco',
        'solov2/solov2_r50_fpn_1x_coco',
        'yolact/yolact_r50_1xb8-55e_coco',
    ],
)
def test_losses(name):
    register_all_modules()
    config = get_config(f'mmdet::{name}.py').model
    without_files(config)
    config.data_preprocessor.batch_augments = None
    torch.manual_seed(0)
    model = MODELS.build(config).train()
    image = torch.randint(255, (3, *SIZE), dtype=torch.uint8)
    found = []
    for make in (CompactBitmapMasks.from_bitmaps, BitmapMasks):
        torch.manual_seed(1)
        again = copy.deepcopy(model)
        batch = dict(inputs=[image] * 2, data_samples=[sample(make) for _ in range(2)])
        with torch.no_grad():
            losses = again(**again.data_preprocessor(batch, True), mode='loss')
        found.append(
            {
                key: [float(v) for v in (value if isinstance(value, list) else [value])]
                for key, value in losses.items()
                if key.startswith('loss')
            }
        )
    assert found[0] == found[1]
    assert any(value > 0 for values in found[0].values() for value in values)
