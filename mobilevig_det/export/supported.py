"""Which detectors can be exported completely.

A setting that the exported graph does not implement exactly is refused rather than
approximated.
"""

from typing import Any

from mmcv.ops import RoIAlign
from mmdet.models import BaseDetector, dense_heads, detectors, roi_heads, task_modules

from ..errors import UserError

FAMILIES = {
    detectors.MaskRCNN: 'Mask R-CNN',
    detectors.FasterRCNN: 'Faster R-CNN',
    detectors.RetinaNet: 'RetinaNet',
    detectors.RTMDet: 'RTMDet-Ins',
}


def check_supported(model: BaseDetector) -> None:
    """Check that the whole detector can be exported.

    Raises:
        UserError: Names the first unsupported detector type, module or setting.
    """
    if type(model) not in FAMILIES:
        raise UserError(
            f'Detectors of the type {type(model).__name__} are not exported whole; '
            f'{", ".join(FAMILIES.values())} are. --part backbone exports the '
            'backbone and the neck of any detector.'
        )
    if isinstance(model, (detectors.MaskRCNN, detectors.FasterRCNN)):
        _check_two_stage(model)
    else:
        _check_one_stage(model)
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith('mmcv.ops') and not isinstance(module, RoIAlign):
            raise _unsupported(name, kind.__name__, 'standard operators of ONNX')


def _check_two_stage(model: BaseDetector) -> None:
    rpn, roi = model.rpn_head, model.roi_head
    _check_type('rpn_head', rpn, dense_heads.RPNHead)
    _check_type('roi_head', roi, roi_heads.StandardRoIHead)
    _check_value('roi_head.shared_head', roi.with_shared_head, False)
    _check_anchors('rpn_head', rpn)
    _check_nms('test_cfg.rpn', rpn.test_cfg)

    head = roi.bbox_head
    _check_type(
        'roi_head.bbox_head',
        head,
        roi_heads.BBoxHead,
        roi_heads.ConvFCBBoxHead,
        roi_heads.Shared2FCBBoxHead,
        roi_heads.Shared4Conv1FCBBoxHead,
    )
    _check_value('roi_head.bbox_head.with_cls', head.with_cls, True)
    _check_value('roi_head.bbox_head.with_reg', head.with_reg, True)
    _check_value(
        'roi_head.bbox_head.loss_cls with its own activation',
        bool(head.custom_cls_channels),
        False,
    )
    _check_delta_coder('roi_head.bbox_head.bbox_coder', head.bbox_coder)
    _check_extractor('roi_head.bbox_roi_extractor', roi.bbox_roi_extractor)
    _check_nms('test_cfg.rcnn', roi.test_cfg)
    if roi.with_mask:
        _check_type('roi_head.mask_head', roi.mask_head, roi_heads.FCNMaskHead)
        _check_extractor('roi_head.mask_roi_extractor', roi.mask_roi_extractor)
        _check_threshold('test_cfg.rcnn.mask_thr_binary', roi.test_cfg)


def _check_one_stage(model: BaseDetector) -> None:
    head, cfg = model.bbox_head, model.test_cfg
    if isinstance(model, detectors.RTMDet):
        _check_type(
            'bbox_head', head, dense_heads.RTMDetInsHead, dense_heads.RTMDetInsSepBNHead
        )
        generator, coder = head.prior_generator, head.bbox_coder
        _check_type(
            'bbox_head.anchor_generator', generator, task_modules.MlvlPointGenerator
        )
        _check_type('bbox_head.bbox_coder', coder, task_modules.DistancePointBBoxCoder)
        _check_value('bbox_head.bbox_coder.clip_border', coder.clip_border, True)
        _check_value('bbox_head.use_sigmoid_cls', head.use_sigmoid_cls, True)
        _check_threshold('test_cfg.mask_thr_binary', cfg)
    else:
        _check_type('bbox_head', head, dense_heads.RetinaHead)
        _check_anchors('bbox_head', head)
    custom = getattr(head.loss_cls, 'custom_cls_channels', False)
    _check_value('bbox_head.loss_cls with its own activation', bool(custom), False)
    _check_nms('test_cfg', cfg)
    # MMDetection keeps all candidates if it is negative.
    _check_positive('test_cfg.nms_pre', cfg.get('nms_pre', -1))


def _check_anchors(name: str, head) -> None:
    _check_type(
        f'{name}.anchor_generator', head.prior_generator, task_modules.AnchorGenerator
    )
    _check_delta_coder(f'{name}.bbox_coder', head.bbox_coder)
    _check_value(f'{name}.loss_cls.use_sigmoid', head.use_sigmoid_cls, True)


def _check_delta_coder(name: str, coder) -> None:
    _check_type(name, coder, task_modules.DeltaXYWHBBoxCoder)
    _check_value(f'{name}.clip_border', coder.clip_border, True)
    _check_value(f'{name}.add_ctr_clamp', coder.add_ctr_clamp, False)


def _check_extractor(name: str, extractor) -> None:
    _check_type(name, extractor, roi_heads.SingleRoIExtractor)
    for layer in extractor.roi_layers:
        _check_type(f'{name}.roi_layer', layer, RoIAlign)
        _check_value(f'{name}.roi_layer.pool_mode', layer.pool_mode, 'avg')


def _check_nms(name: str, cfg) -> None:
    nms = dict(cfg.get('nms') or {})
    _check_value(f'{name}.nms.type', nms.pop('type', 'nms'), 'nms')
    nms.pop('iou_threshold', None)
    nms.pop('split_thr', None)  # changes how boxes are computed, not which
    _check_value(f'{name}.nms.offset', nms.pop('offset', 0), 0)
    _check_value(f'{name}.nms.class_agnostic', nms.pop('class_agnostic', False), False)
    if 'iou_threshold' not in (cfg.get('nms') or {}):
        raise _unsupported(f'{name}.nms.iou_threshold', None, 'a number')
    if nms:
        raise _unsupported(f'{name}.nms', nms, 'iou_threshold alone')
    _check_positive(f'{name}.max_per_img', cfg.get('max_per_img', -1))


def _check_threshold(name: str, cfg) -> None:
    value = cfg.get('mask_thr_binary', 0.5)
    if not 0 <= value <= 1:
        raise _unsupported(name, value, 'a probability')


def _check_type(name: str, found: Any, *known: type) -> None:
    # Not isinstance: a subclass may compute something else.
    if type(found) not in known:
        raise _unsupported(
            name, type(found).__name__, ' or '.join(cls.__name__ for cls in known)
        )


def _check_value(name: str, found: Any, known: Any) -> None:
    if found != known:
        raise _unsupported(name, found, known)


def _check_positive(name: str, found: int) -> None:
    if found <= 0:
        raise _unsupported(name, found, 'a positive number')


def _unsupported(name: str, found: Any, known: Any) -> UserError:
    return UserError(
        f'{name} is {found!r}; a whole detector is exported with {known} only, so '
        'that its file detects what the model does. --part backbone exports the '
        'backbone and the neck of any detector.'
    )
