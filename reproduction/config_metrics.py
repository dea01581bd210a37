"""Measure what a config determines without data.

Parameters and FLOPs of its model, and its learning rates next to those in the logs of
the authors' runs.
"""

import csv
import gzip
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from mobilevig_det.classification.config_checks import is_classifier
from mobilevig_det.evaluation.run_log import PUBLISHED_ROOT

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from . import figures

DETECTOR_SIZE = (800, 1344)
CLASSIFIER_SIZE = (224, 224)
PROPOSALS, MASKS = 1000, 100  # as in MMDetection's get_flops.py
ITERATIONS = 14659  # per epoch, with 4 GPUs and 2 images each, in both logs


def complexity(cfg: Config) -> dict[str, float]:
    """Count the parameters and FLOPs of a config's model.

    A multiply-add counts as one. Norms, upsampling and pooling count as in MMEngine's
    ``get_model_complexity_info``; GMACs are those of convolutions and matrix products
    alone. The model runs on torch's meta device, which has shapes but no values.

    Args:
        cfg (Config): A classifier or a two-stage detector with masks.

    Returns:
        dict[str, float]: Values by the names of quantities in :mod:`.figures`.
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
    """Count the parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def run_detector(detector: Any, image: Tensor) -> None:
    """Run every module of a Mask R-CNN that has weights once.

    Args:
        detector (BaseDetector): The model.
        image (Tensor): (1, 3, H, W).
    """
    maps = detector.extract_feat(image)
    detector.rpn_head(maps)
    channels = maps[0].shape[1]
    detector.roi_head.bbox_head(image.new_zeros(PROPOSALS, channels, 7, 7))
    detector.roi_head.mask_head(image.new_zeros(MASKS, channels, 14, 14))


class _Elementwise(TorchFunctionMode):
    """Count FLOPs of operations other than convolutions and matrix products.

    The rules are MMEngine's.
    """

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
    """Count FLOPs as MMEngine does, and multiply-adds alone.

    Args:
        run (Callable): Called with an image of (1, 3, H, W) on the meta device.
        size (tuple[int, int]): Height and width in pixels.

    Returns:
        tuple[int, int]: FLOPs and multiply-adds.
    """
    image = torch.zeros(1, 3, *size, device='meta')
    products = FlopCounterMode(display=False)
    with torch.no_grad(), _Elementwise() as elementwise, products:
        run(image)
    macs = products.get_total_flops() // 2
    return macs + elementwise.total, macs


def learning_rates(cfg: Config) -> Iterator[float]:
    """Yield the learning rate of every iteration under the config's schedulers."""
    model = torch.nn.Linear(1, 1, bias=False)  # without a gradient
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    runner = SimpleNamespace(
        param_schedulers=[
            PARAM_SCHEDULERS.build(
                dict(scheduler),
                default_args=dict(optimizer=wrapper, epoch_length=ITERATIONS),
            )
            for scheduler in cfg.param_scheduler
        ]
    )
    (group,) = wrapper.param_groups
    hook = ParamSchedulerHook()
    wrapper.step()  # schedulers warn if they step before the optimizer
    for _ in range(cfg.train_cfg.max_epochs):
        for i in range(ITERATIONS):
            yield group['lr']
            hook.after_train_iter(runner, i)
        hook.after_train_epoch(runner)


def logged_rates(arch: str) -> list[dict[str, str]]:
    """Read the rows of the authors' log of size 'm' or 'b': epoch, iter and lr."""
    path = PUBLISHED_ROOT / f'coco_1x_{arch}_rate.csv.gz'
    with gzip.open(path, 'rt') as file:
        return list(csv.DictReader(file))


def rates_met(cfg: Config, arch: str) -> int:
    """Count the logged rates that the config reproduces to every printed digit."""
    found = list(learning_rates(cfg))
    met = 0
    for row in logged_rates(arch):
        # Iterations count from 1, and a row is logged after its iteration.
        i = (int(row['epoch']) - 1) * ITERATIONS + int(row['iter']) - 1
        met += i < len(found) and f'{found[i]:.3e}' == row['lr']
    return met
