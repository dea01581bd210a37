"""Whole detectors with MMDetection's heads, beside ResNet-50."""

from argparse import Namespace
from collections.abc import Iterator
from functools import partial

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.registry import init_default_scope

from ..apis import load_config
from ..ops import use_on_cpus
from .turns import in_turns

# Under --amp. Compiled mmcv knows float16, but not bfloat16.
DETECTOR_AMP = torch.float16


def make_detector(
    args: Namespace, arch: str | None, training: bool, compiled: bool = False
):
    """Whole Mask R-CNN, MMDetection's heads: a training step with AdamW, or
    a prediction; with compiled mmcv's operators, or on CPUs ours."""
    if not compiled:
        use_on_cpus()
    init_default_scope('mmdet')
    cfg = load_config(f'mobilevig_{arch or "m"}_fpn_1x').model
    cfg.backbone.init_cfg = None
    if arch is None:
        cfg.backbone = dict(
            type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=True)
        )
        cfg.neck.in_channels = [256, 512, 1024, 2048]
    model = MODELS.build(cfg).to(args.device).train(training)
    shape = [3, *map(int, args.sizes[-1].split('x'))]
    inputs = model.data_preprocessor(
        demo_mm_inputs(
            args.batch_size,
            [shape] * args.batch_size,
            num_items=[8] * args.batch_size,
            num_classes=80,
            with_mask=True,
            device=args.device,
        ),
        True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

    def train():
        with torch.autocast(args.device, DETECTOR_AMP, enabled=args.amp):
            losses = model.parse_losses(model(**inputs, mode='loss'))[0]
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def predict():
        with torch.no_grad():
            model(**inputs, mode='predict')

    return {}, train if training else predict


def detector_rows(args: Namespace) -> Iterator[dict]:
    size = 'x'.join([str(args.batch_size), '3', args.sizes[-1]])
    archs = {f'MobileViG-{arch}': arch for arch in args.archs}
    archs['ResNet-50'] = None
    for part, training in (
        ('detector, training step', True),
        ('detector, inference', False),
    ):
        yield from in_turns(
            [dict(part=part, size=size, name=name) for name in archs],
            [
                partial(make_detector, arch=arch, training=training)
                for arch in archs.values()
            ],
            max(args.rounds - 2, 1),
            args,
        )
