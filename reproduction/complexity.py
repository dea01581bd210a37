"""Parameters and FLOPs of a config's model, computed without data."""

from collections.abc import Callable
from typing import Any

from mobilevig_det.classification.config_checks import is_classifier

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from . import figures

DETECTOR_SIZE = (800, 1344)
CLASSIFIER_SIZE = (224, 224)
PROPOSALS, MASKS = 1000, 100  # as MMDetection's get_flops.py has them


def complexity(cfg: Config) -> dict[str, float]:
    """Parameters and FLOPs by the names in :mod:`.figures`.

    A multiply-add counts as one; norms, upsampling and pooling count as MMEngine's
    ``get_model_complexity_info`` counts them, GMACs are those of convolutions and
    matrix products alone. On torch's meta device, which knows sizes and
    computes no values.

    Args:
        cfg (Config): A classifier or a two-stage detector with masks.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    if is_classifier(cfg):
        backbone, head = (MODELS.build(cfg.model[k]) for k in ('backbone', 'head'))
        model = nn.ModuleList([backbone, head]).eval().to('meta')
        flops, _ = count(lambda image: head(backbone(image)), CLASSIFIER_SIZE)
        return {figures.PARAMETERS: parameters(model), figures.FLOPS: flops / 1e9}
    detector = MODELS.build(cfg.model).eval().to('meta')
    flops, _ = count(lambda image: run_detector(detector, image), DETECTOR_SIZE)
    of_backbone, macs = count(detector.backbone, DETECTOR_SIZE)
    return {
        figures.PARAMETERS: parameters(detector),
        figures.FLOPS: flops / 1e9,
        figures.BACKBONE_PARAMETERS: parameters(detector.backbone) / 1e6,
        figures.BACKBONE_FLOPS: of_backbone / 1e9,
        figures.GMACS: macs / 1e9,
    }


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def run_detector(detector: Any, image: Tensor) -> None:
    """Everything of a Mask R-CNN that has weights, once.

    Args:
        image (Tensor): (1, 3, H, W).
    """
    maps = detector.extract_feat(image)
    detector.rpn_head(maps)
    channels = maps[0].shape[1]
    detector.roi_head.bbox_head(image.new_zeros(PROPOSALS, channels, 7, 7))
    detector.roi_head.mask_head(image.new_zeros(MASKS, channels, 14, 14))


class _Elementwise(TorchFunctionMode):
    """MMEngine's rules for what is no convolution and no matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, '__name__', '')
        if name == 'batch_norm':
            self.total += 2 * out.numel()
        elif name == 'layer_norm':
            self.total += 5 * out.numel()
        elif name == 'interpolate':  # nearest, in FPN
            self.total += out.numel()
        elif name == 'adaptive_avg_pool2d':
            self.total += args[0].numel()
        return out


def count(run: Callable, size: tuple[int, int]) -> tuple[int, int]:
    """FLOPs as MMEngine counts them, and multiply-adds alone.

    Args:
        run (Callable): Called with an image of (1, 3, H, W) on the meta device.
        size (tuple[int, int]): Height and width in pixels.
    """
    image = torch.zeros(1, 3, *size, device='meta')
    products = FlopCounterMode(display=False)
    with torch.no_grad(), _Elementwise() as elementwise, products:
        run(image)
    macs = products.get_total_flops() // 2
    return macs + elementwise.total, macs
