"""Detectors that cannot be exported completely are refused by name."""

from mobilevig_det.errors import UserError
from mobilevig_det.export.supported import check_supported

import pytest
from exported import build, config
from mmcv.ops import DeformConv2d

REFUSED = {
    'test_cfg.rcnn.nms.type': 'soft_nms',
    'test_cfg.rpn.nms.class_agnostic': True,
    'test_cfg.rpn.nms.offset': 1,
    'test_cfg.rcnn.nms.score_threshold': 0.1,
    'test_cfg.rcnn.max_per_img': -1,
    'rpn_head.bbox_coder.clip_border': False,
    'rpn_head.loss_cls.use_sigmoid': False,
    'rpn_head.bbox_coder.add_ctr_clamp': True,
    'roi_head.bbox_roi_extractor.roi_layer.pool_mode': 'max',
}


@pytest.mark.parametrize('key', REFUSED)
def test_unsupported_settings_are_refused(key):
    cfg = config('Faster R-CNN')
    cfg.merge_from_dict({f'model.{key}': REFUSED[key]})
    model = build(cfg)
    with pytest.raises(UserError, match=key.rsplit('.', 1)[-1]):
        check_supported(model)


def test_subclass_of_a_head_is_refused():
    model = build(config('RetinaNet'))
    model.bbox_head.__class__ = type('MyHead', (type(model.bbox_head),), {})
    with pytest.raises(UserError, match='MyHead.*only RetinaHead'):
        check_supported(model)


def test_other_detectors_are_refused():
    cfg = config('RetinaNet')
    cfg.model.type = 'ATSS'
    with pytest.raises(UserError, match='ATSS.*Mask R-CNN, Faster R-CNN, RetinaNet'):
        check_supported(build(cfg))


def test_operators_of_mmcv_are_refused():
    cfg = config('Faster R-CNN')
    model = build(cfg)
    model.neck.extra = DeformConv2d(4, 4, 3)
    with pytest.raises(UserError, match='neck.extra.*DeformConv2d'):
        check_supported(model)
