"""Published detectors whose operators MobileViG's recipes don't use.

With the operators in use here: ours, where mmcv has none.
"""

from mobilevig_det.mmcv_ops import use_on_cpus

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from test_detectors import batch, keep_few

CONFIGS = {
    'deformable convolution': 'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'modulated deformable convolution': (
        'dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py'
    ),
    'guided anchoring': 'guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco.py',
    'soft-NMS': 'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py',
}


@pytest.mark.parametrize('name', CONFIGS)
def test_step_and_prediction(name):
    use_on_cpus()
    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{CONFIGS[name]}').model
    cfg.backbone.update(init_cfg=None, frozen_stages=-1)
    # Else nothing within a block has a gradient in the first step.
    cfg.backbone.zero_init_residual = False
    for part in (cfg.train_cfg, cfg.test_cfg):
        keep_few(part)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg)).train()
    model.init_weights()
    loss, log = model.parse_losses(
        model(**model.data_preprocessor(batch(), True), mode='loss')
    )
    loss.backward()
    assert all(value.isfinite().all() for value in log.values()), log
    offsets = [
        parameter
        for key, parameter in model.named_parameters()
        if 'conv_offset' in key and key.endswith('weight')
    ]
    assert bool(offsets) == ('deformable' in name or 'guided' in name)
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    # They begin at zero, and get a gradient through the operator alone.
    assert all(parameter.grad.abs().sum() > 0 for parameter in offsets)
    model.eval()
    with torch.no_grad():
        (found,) = model.test_step(batch())
    found = found.pred_instances
    assert (
        len(found) and found.bboxes.isfinite().all() and found.scores.isfinite().all()
    )
