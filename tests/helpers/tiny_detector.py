"""The work directory of a small Mask R-CNN with random weights."""

from mobilevig_det.config import load_config

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

CLASSES = ('circle', 'square', 'triangle')


def make(folder):
    """Write config.py and epoch_1.pth into a folder, as a training run does."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = load_config('mobilevig_ti_fpn_shapes')
    for part in (cfg.test_dataloader.dataset, cfg.val_dataloader.dataset):
        part.data_root = str(folder / 'no such data')
    # Small, so that the tests are fast.
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (128, 96)
    cfg.dump(folder / 'config.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    # Spread the scores, so that rounding does not change their order.
    with torch.no_grad():
        model.rpn_head.rpn_cls.weight.mul_(30)
        model.roi_head.bbox_head.fc_cls.weight.mul_(30)
        model.roi_head.bbox_head.fc_reg.weight.mul_(30)
        model.roi_head.mask_head.conv_logits.weight.mul_(30)
    torch.save(
        dict(
            state_dict=model.state_dict(), meta=dict(dataset_meta=dict(CLASSES=CLASSES))
        ),
        folder / 'epoch_1.pth',
    )
