"""Tiny detectors of the families that are exported with their heads.

Their random weights spread the scores.
"""

from pathlib import Path

from mobilevig_det.backbones import fuse_backbones
from mobilevig_det.config import load_config
from mobilevig_det.export import make_metadata
from mobilevig_det.export.onnx import detectors, layers, write_onnx_detector
from mobilevig_det.export.openvino import write_openvino

import onnx
import pytest
import torch
from filelock import FileLock  # torch requires it
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

FAMILIES = ('Mask R-CNN', 'Faster R-CNN', 'RetinaNet', 'RTMDet-Ins')
NARROW = 16
BACKBONE = dict(
    type='MobileViG',
    # One block per stage, and few channels.
    arch=dict(channels=[8, 12, 16, 24], blocks=[1, 1, 1, 1]),
)
SIBLINGS = tuple(
    f'Mask R-CNN with {sibling}'
    for sibling in ('GreedyViG', 'MobileViGv2', 'AdaptViG', 'RapidNet')
)
# The least that a detector's file must say, and all that is read of it.
METADATA = dict(
    format=1,
    part='detector',
    classes=['cat', 'собака'],
    palette=[[0, 128, 255], [1, 2, 3]],
    mean=[123.675, 116.28, 103.53],
    std=[58, 57.12, 57.375],
    bgr_to_rgb=True,
    resize=dict(scale=[64, 48], keep_ratio=True),
    pad=dict(size=[64, 64], value=[114, 114, 114]),
    pad_size_divisor=32,
    pad_value=0,
    masks=None,
)


def config(family: str) -> Config:
    """Make a small config of a family, or of a family with a sibling as backbone."""
    family, _, sibling = family.partition(' with ')
    if family in ('Mask R-CNN', 'Faster R-CNN'):
        cfg = load_config('mobilevig_ti_fpn_shapes')
        model = cfg.model
        if family == 'Faster R-CNN':
            model.type = 'FasterRCNN'
            del model.roi_head['mask_head'], model.roi_head['mask_roi_extractor']
            # As in MMDetection, but with one box for all classes.
            model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio = 0
            model.roi_head.bbox_head.reg_class_agnostic = True
    elif family == 'RetinaNet':
        cfg = load_config('retinanet_mobilevig_m_fpn_1x')
        model = cfg.model
        model.neck.out_channels = model.bbox_head.in_channels = NARROW
        model.bbox_head.update(feat_channels=NARROW, stacked_convs=1, num_classes=5)
    else:
        cfg = get_config('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py')
        model = cfg.model
        model.neck.update(
            in_channels=[12, 16, 24], out_channels=NARROW, num_csp_blocks=1
        )
        model.bbox_head.update(
            in_channels=NARROW, feat_channels=NARROW, stacked_convs=1, num_classes=5
        )
    model.backbone = dict(BACKBONE)
    if sibling:
        arch = dict(BACKBONE['arch'], graph_blocks=[0, 0, 1, 1])
        model.backbone.update(type=sibling, arch=arch, layer_scale_init_value=1.0)
    if family == 'RTMDet-Ins':
        model.backbone.out_indices = (1, 2, 3)
    else:
        model.neck.in_channels = BACKBONE['arch']['channels']
    cfg.test_dataloader.dataset.data_root = 'no such data'
    return cfg


def build(cfg: Config):
    """Build the model with predictions that differ between priors."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('rpn_cls.weight'):
                parameter.mul_(10)  # a larger factor makes many scores equal to 1
            elif name.endswith('temperature'):
                parameter.fill_(-9)  # gates near one half
            elif name.endswith(LAST) and parameter.ndim > 1:
                parameter.mul_(30)
            elif name.endswith('retina_cls.bias'):
                parameter.fill_(-3)
            elif 'rtm_cls' in name and name.endswith('bias'):
                parameter.fill_(-2)
    return model


class Exporter:
    """Export a tiny detector.

    Its layers go through PyTorch's exporter, which takes many seconds, only once, so
    that files with other thresholds are written fast.

    Args:
        family (str): See :func:`config`.
        folder (Path): Where processes of one test run share the exported layers.
    """

    def __init__(self, family, folder):
        self.cfg = config(family)
        self.prefix = f'{folder}/{family}'
        self.model = build(self.cfg)
        fuse_backbones(self.model)
        self._layers = {}
        self._to_onnx = layers.to_onnx

    def write(self, folder, suffix='.onnx'):
        """Write a file for the model's current test_cfg and return its path."""
        metadata = make_metadata(self.cfg, self.model, ('a', 'b'), 'detector')
        path = folder / 'detector.onnx'
        with pytest.MonkeyPatch.context() as patch:
            for module in (layers, detectors):
                patch.setattr(module, 'to_onnx', self.once)
            write_onnx_detector(self.model, path, metadata)
        if suffix == '.xml':
            write_openvino(path, path.with_suffix('.xml'), metadata)
        return path.with_suffix(suffix)

    def once(self, module, example, name, *args):
        if name not in self._layers:
            path = Path(f'{self.prefix} {name}.onnx')
            with FileLock(f'{path}.lock'):
                if not path.exists():
                    onnx.save(self._to_onnx(module, example, name, *args), path)
            self._layers[name] = onnx.load(path)
        return self._layers[name]


# The last layers of each family.
LAST = tuple(
    f'{name}.weight'
    for name in (
        'fc_cls', 'fc_reg', 'conv_logits', 'retina_cls', 'retina_reg',
        *(f'rtm_{what}.{i}' for what in ('cls', 'reg', 'kernel') for i in range(3)),
    )
)  # fmt: skip
