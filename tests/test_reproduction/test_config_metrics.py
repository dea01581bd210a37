"""FLOPs counted on the meta device against MMEngine's, which runs the model."""

from mobilevig_det.config import load_config
from reproduction.config_metrics import count, run_detector

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from mmengine.registry import init_default_scope
from siblings import SMALLEST
from torch import nn


class Run(nn.Module):
    """Call a function of a model and an image."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, image):
        return self.function(self.model, image)


def everything(detector, image):
    """Return the tensors in which a trace has to end."""
    maps = detector.extract_feat(image)
    boxes = detector.roi_head.bbox_head(image.new_zeros(1000, 256, 7, 7))
    masks = detector.roi_head.mask_head(image.new_zeros(100, 256, 14, 14))
    return detector.rpn_head(maps), boxes, masks


def classify(parts, image):
    return parts[1](parts[0](image))


SLOW = ['mobilevig_ti_fpn_1x']
SLOW += [f'{family}_{size}_fpn_1x' for family, size in SMALLEST if family != 'adaptvig']


@pytest.mark.parametrize(
    'config',
    [
        'mobilevig_ti_300e',
        'adaptvig_s_fpn_1x',  # has attention and LayerNorm
        *(pytest.param(config, marks=pytest.mark.slow) for config in SLOW),
    ],
)
def test_flops_equal_mmengines(config):
    cfg = load_config(config)
    init_default_scope('mmdet')
    if 'fpn' in config:
        model = MODELS.build(cfg.model).eval()
        traced, counted = everything, run_detector
    else:
        model = nn.ModuleList(
            MODELS.build(cfg.model[key]) for key in ('backbone', 'head')
        ).eval()
        traced = counted = classify
    analyzer = FlopAnalyzer(Run(model, traced), (torch.zeros(1, 3, 64, 96),))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    expected, operators = analyzer.total(), analyzer.by_operator()
    model = model.to('meta')
    flops, macs = count(lambda image: counted(model, image), (64, 96))
    assert flops == expected
    products = ('conv', 'linear', 'matmul')  # matmul is how attention is traced
    assert macs == sum(operators.get(name, 0) for name in products)
