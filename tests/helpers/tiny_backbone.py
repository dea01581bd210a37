"""Backbone and neck of a small detector, with weights that affect the output."""

from mobilevig_det.export.backbone import BackboneWithNeck

import mmdet.models  # noqa: F401  registers the necks
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

CHANNELS = [8, 16, 24, 32]
METADATA = dict(
    format=1,
    part='backbone',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
)


class Detector(nn.Module):
    """The parts of a detector that the export of its backbone reads."""

    def __init__(self, neck=True, graph_stride=2):
        super().__init__()
        init_default_scope('mmdet')
        torch.manual_seed(0)
        self.backbone = MODELS.build(
            dict(
                type='MobileViG',
                arch=dict(channels=CHANNELS, blocks=(1, 1, 1, 2)),
                graph_stride=graph_stride,
                layer_scale_init_value=1.0,
            )
        )
        if neck:
            fpn = dict(type='FPN', in_channels=CHANNELS, out_channels=8, num_outs=5)
            self.neck = MODELS.build(fpn)
        self.eval()


def make(neck=True, graph_stride=2):
    return BackboneWithNeck(Detector(neck, graph_stride))


def worst(found, expected):
    """Return the largest difference, relative to the largest value of its map."""
    return max(
        float((torch.as_tensor(a) - b).abs().max() / b.abs().max())
        for a, b in zip(found, expected, strict=True)
    )
