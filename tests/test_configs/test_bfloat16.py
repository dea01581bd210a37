"""Whole detectors train in bfloat16, which compiled mmcv does not know."""

from mobilevig_det.config import load_config
from mobilevig_det.mmcv_ops import use_on_cpus

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from test_detectors import batch, keep_few, recipes


def config(family, folder):
    if family == 'RTMDet-ins':
        path = folder / 'config.py'
        path.write_text(recipes()[family])
        model = Config.fromfile(path).model
        model.data_preprocessor.update(pad_size_divisor=32, pad_mask=True)
    else:
        model = load_config(
            {
                'Mask R-CNN': 'mobilevig_ti_fpn_1x',
                'RetinaNet': 'retinanet_mobilevig_m_fpn_1x',
            }[family]
        ).model
    model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    keep_few(model.train_cfg)
    return model


def keep_proposals(model):
    """Give the RoI head in every step those of the first: a box that rounding
    adds or takes away is another sample, with another loss."""
    loss_and_predict = model.rpn_head.loss_and_predict
    first = []

    def with_first(*args, **kwargs):
        losses, proposals = loss_and_predict(*args, **kwargs)
        first.append([p.detach().clone() for p in proposals])
        return losses, [proposal.clone() for proposal in first[0]]

    model.rpn_head.loss_and_predict = with_first


@pytest.mark.parametrize('family', ['Mask R-CNN', 'RetinaNet', 'RTMDet-ins'])
def test_a_step(family, tmp_path):
    use_on_cpus()
    init_default_scope('mmdet')
    cfg = config(family, tmp_path)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg)).train()
    model.init_weights()
    if family == 'Mask R-CNN':
        keep_proposals(model)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        torch.manual_seed(1)  # the samplers'
        data = model.data_preprocessor(batch(), True)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss, log = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        assert all(value.isfinite().all() for value in log.values()), log
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        results.append((loss.item(), torch.cat(grads).double(), len(grads)))
    (loss, grad, number), (half_loss, half_grad, half_number) = results
    assert number == half_number
    assert abs(half_loss - loss) < 0.03 * loss
    # Of 8 bits: the direction of the step, and its length.
    assert torch.cosine_similarity(grad, half_grad, dim=0) > 0.95
    assert 0.9 < half_grad.norm() / grad.norm() < 1.1
