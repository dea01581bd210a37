"""Check whether a complete detector can be exported.

Settings that the exported graph does not implement exactly are rejected rather than
approximated.
"""

from collections.abc import Iterator
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
BOX_HEADS = (
    roi_heads.BBoxHead,
    roi_heads.ConvFCBBoxHead,
    roi_heads.Shared2FCBBoxHead,
    roi_heads.Shared4Conv1FCBBoxHead,
)
# Keys of test_cfg.nms. split_thr changes how NMS is computed, but not its results.
NMS_KEYS = {'type', 'iou_threshold', 'split_thr', 'offset', 'class_agnostic'}

# A name in the config, the value in the detector, and the supported values. Types are
# compared exactly, because a subclass may compute something else.
Requirement = tuple[Any, ...]


def check_supported(model: BaseDetector) -> None:
    """Check that a complete detector can be exported.

    Args:
        model (BaseDetector): The detector.

    Raises:
        UserError: If it can't. The message names the first unsupported detector type,
            module or setting.
    """
    if type(model) not in FAMILIES:
        raise UserError(
            f'A complete {type(model).__name__} cannot be exported; supported are '
            f'{", ".join(FAMILIES.values())}. --part backbone exports the backbone '
            'and the neck of any detector.'
        )
    two_stage = isinstance(model, (detectors.MaskRCNN, detectors.FasterRCNN))
    for name, found, *known in _two_stage(model) if two_stage else _one_stage(model):
        if found not in known:
            raise _unsupported(name, found, known)
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith('mmcv.ops') and not isinstance(module, RoIAlign):
            raise _unsupported(name, kind, ['standard operators of ONNX'])


def _unsupported(name: str, found: Any, known: list) -> UserError:
    found, *known = (
        value.__name__ if isinstance(value, type) else value
        for value in (found, *known)
    )
    return UserError(
        f'{name} is {found!r}; the export of a complete detector supports only '
        f'{" or ".join(map(str, known))}. --part backbone exports the backbone and the '
        'neck of any detector.'
    )


def _two_stage(model: BaseDetector) -> Iterator[Requirement]:
    rpn, roi = model.rpn_head, model.roi_head
    yield 'rpn_head', type(rpn), dense_heads.RPNHead
    yield 'roi_head', type(roi), roi_heads.StandardRoIHead
    yield 'roi_head.shared_head', roi.with_shared_head, False
    yield from _anchors('rpn_head', rpn)
    yield from _nms('test_cfg.rpn', rpn.test_cfg)

    head, name = roi.bbox_head, 'roi_head.bbox_head'
    yield name, type(head), *BOX_HEADS
    yield f'{name}.with_cls', head.with_cls, True
    yield f'{name}.with_reg', head.with_reg, True
    custom = bool(head.custom_cls_channels)
    yield f'{name}.loss_cls with its own activation', custom, False
    yield from _delta_coder(f'{name}.bbox_coder', head.bbox_coder)
    yield from _extractor('roi_head.bbox_roi_extractor', roi.bbox_roi_extractor)
    yield from _nms('test_cfg.rcnn', roi.test_cfg)
    if roi.with_mask:
        yield 'roi_head.mask_head', type(roi.mask_head), roi_heads.FCNMaskHead
        yield from _extractor('roi_head.mask_roi_extractor', roi.mask_roi_extractor)
        yield from _mask_threshold('test_cfg.rcnn', roi.test_cfg)


def _one_stage(model: BaseDetector) -> Iterator[Requirement]:
    head, cfg = model.bbox_head, model.test_cfg
    if isinstance(model, detectors.RTMDet):
        heads = dense_heads.RTMDetInsHead, dense_heads.RTMDetInsSepBNHead
        yield 'bbox_head', type(head), *heads
        generator, coder = head.prior_generator, head.bbox_coder
        points = task_modules.MlvlPointGenerator
        yield 'bbox_head.anchor_generator', type(generator), points
        yield 'bbox_head.bbox_coder', type(coder), task_modules.DistancePointBBoxCoder
        yield 'bbox_head.bbox_coder.clip_border', coder.clip_border, True
        yield 'bbox_head.use_sigmoid_cls', head.use_sigmoid_cls, True
        yield from _mask_threshold('test_cfg', cfg)
    else:
        yield 'bbox_head', type(head), dense_heads.RetinaHead
        yield from _anchors('bbox_head', head)
    custom = bool(getattr(head.loss_cls, 'custom_cls_channels', False))
    yield 'bbox_head.loss_cls with its own activation', custom, False
    yield from _nms('test_cfg', cfg)
    # With a negative value, MMDetection keeps all candidates.
    yield _positive('test_cfg.nms_pre', cfg.get('nms_pre', -1))


def _anchors(name: str, head) -> Iterator[Requirement]:
    anchors = task_modules.AnchorGenerator
    yield f'{name}.anchor_generator', type(head.prior_generator), anchors
    yield from _delta_coder(f'{name}.bbox_coder', head.bbox_coder)
    yield f'{name}.loss_cls.use_sigmoid', head.use_sigmoid_cls, True


def _delta_coder(name: str, coder) -> Iterator[Requirement]:
    yield name, type(coder), task_modules.DeltaXYWHBBoxCoder
    yield f'{name}.clip_border', coder.clip_border, True
    yield f'{name}.add_ctr_clamp', coder.add_ctr_clamp, False


def _extractor(name: str, extractor) -> Iterator[Requirement]:
    yield name, type(extractor), roi_heads.SingleRoIExtractor
    for layer in extractor.roi_layers:
        yield f'{name}.roi_layer', type(layer), RoIAlign
        yield f'{name}.roi_layer.pool_mode', layer.pool_mode, 'avg'


def _nms(name: str, cfg) -> Iterator[Requirement]:
    nms = cfg.get('nms') or {}
    yield f'{name}.nms.type', nms.get('type', 'nms'), 'nms'
    yield f'{name}.nms.offset', nms.get('offset', 0), 0
    yield f'{name}.nms.class_agnostic', nms.get('class_agnostic', False), False
    if 'iou_threshold' not in nms:
        yield f'{name}.nms.iou_threshold', None, 'a number'
    for key in set(nms) - NMS_KEYS:
        yield f'{name}.nms.{key}', nms[key], 'iou_threshold alone'
    yield _positive(f'{name}.max_per_img', cfg.get('max_per_img', -1))


def _positive(name: str, found: int) -> Requirement:
    return name, found, found if found > 0 else 'a positive number'


def _mask_threshold(name: str, cfg) -> Iterator[Requirement]:
    found = cfg.get('mask_thr_binary', 0.5)
    name = f'{name}.mask_thr_binary'
    yield name, found, found if 0 <= found <= 1 else 'a probability'
