"""Whole detectors: MMDetection's as it is beside ours, and beside ResNet-50."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from mobilevig_det.config import load_config
from mobilevig_det.datasets.compact_masks import CompactBitmapMasks
from mobilevig_det.mmcv_ops import mmcv_ext, use_on_cpus
from mobilevig_det.ops.winograd import use_winograd

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.registry import init_default_scope
from torch.utils.flop_counter import FlopCounterMode

from .backbones import MATRIX_PRODUCT, make_matrix_product
from .device_activity import measure_activity
from .stages import measure_stages
from .turns import in_turns

# Under --amp. Compiled mmcv knows float16, but not bfloat16.
DETECTOR_AMP = torch.float16
GPU_BATCHES = 2, 8, 16
TF32 = 'TF32'
TRAINING, PREDICTION = 'detector, training step', 'detector, inference'
DETECTIONS = 'detector, inference with 100 detections'
# Training steps of ours with another backbone.
CHECKPOINTED = {"with_cp='act'": dict(with_cp='act')}
ON_GPUS: dict[str, dict] = {
    'graph step in Triton': dict(triton=True),
    'compiled backbone': dict(compile_cfg=dict(fullgraph=True)),
    'captured backbone': dict(compile_cfg=dict(fullgraph=True, mode='reduce-overhead')),
}


def stock() -> str:
    """What MMDetection as it is means here."""
    return 'stock' if mmcv_ext.is_compiled() else 'stock heads on our operators'


@contextmanager
def precision_of(device: str, precision: str) -> Iterator[None]:
    """Autocast to 'float16' or 'bfloat16', or matrix products in TF32."""
    torch.set_float32_matmul_precision('high' if precision == TF32 else 'highest')
    torch.backends.cudnn.allow_tf32 = precision == TF32
    half = getattr(torch, precision) if '16' in precision else torch.float16
    with torch.autocast(device, half, enabled='16' in precision):
        yield


def make_detector(
    args: Namespace,
    arch: str | None,
    part: str,
    stock: bool = False,
    backbone: dict | None = None,
    batch: int = 1,
    precision: str = 'float32',
):
    """Whole Mask R-CNN, MMDetection's heads, random weights: a training step with
    AdamW, or a prediction.

    ``stock``: compiled mmcv's operators where there are such, and masks as
    MMDetection loads them. Else with all that is ours. ``backbone``: arguments of
    MobileViG's.
    """
    training = part == TRAINING
    if not stock:
        use_on_cpus()
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg = load_config(f'mobilevig_{arch or "m"}_fpn_1x').model
    cfg.backbone.init_cfg = None
    if arch is None:
        cfg.backbone = dict(
            type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=True)
        )
        cfg.neck.in_channels = [256, 512, 1024, 2048]
    cfg.backbone.update(backbone or {})
    model = MODELS.build(cfg).to(args.device).train(training)
    if part == DETECTIONS:  # one class is found wherever one may be
        model.roi_head.bbox_head.fc_cls.bias.data[0] += 5
    shape = [3, *map(int, args.sizes[-1].split('x'))]
    inputs = demo_mm_inputs(
        batch,
        [shape] * batch,
        num_items=[8] * batch,
        num_classes=80,
        with_mask=True,
        device=args.device,
    )
    for sample in inputs['data_samples']:
        masks = sample.gt_instances.masks
        masks.masks = masks.masks.astype('uint8')  # as they are loaded
        if not stock:
            sample.gt_instances.masks = CompactBitmapMasks.from_bitmaps(
                masks.masks, *shape[1:]
            )
    inputs = model.data_preprocessor(inputs, True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

    def train():
        with precision_of(args.device, precision):
            losses = model.parse_losses(model(**inputs, mode='loss'))[0]
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def predict():
        with torch.no_grad(), precision_of(args.device, precision):
            model(**inputs, mode='predict')

    run = train if training else predict
    facts: dict = dict(images=batch)
    if not training:
        counter = FlopCounterMode(display=False)
        with counter:  # before Winograd's algorithm does with less
            run()
        facts['gmacs'] = counter.get_total_flops() / 2e9 / batch
        facts['params'] = sum(p.numel() for p in model.parameters())
    if not stock:
        use_winograd(model)
    facts['stages'] = measure_stages(model, optimizer, run, args.device)
    facts['activity'] = measure_activity(run, args.device)
    return facts, run


def detector_rows(args: Namespace) -> Iterator[dict]:
    """At the last of ``args.sizes``. On a GPU, unless the flags ask for one of them,
    for some batch sizes and precisions."""
    amp = [str(DETECTOR_AMP).removeprefix('torch.')]
    batches, precisions = [args.batch_size], amp if args.amp else ['float32']
    if args.device != 'cpu' and args.batch_size == 1:
        batches = list(GPU_BATCHES)
    if args.device != 'cpu' and not args.amp:
        precisions = ['float32', TF32, 'float16', 'bfloat16']
    for part in (TRAINING, PREDICTION, DETECTIONS):
        for batch in batches:
            for precision in precisions:
                yield from _rows(args, part, batch, precision)


def _rows(args: Namespace, part: str, batch: int, precision: str) -> list[dict]:
    size = f'{batch}x3x{args.sizes[-1]}'
    if args.device != 'cpu' or precision != 'float32':
        size += f', {precision}'
    make = partial(make_detector, part=part, batch=batch, precision=precision)
    archs = {f'MobileViG-{arch}': arch for arch in args.archs}
    makes, bases = {}, {}
    if part != TRAINING:
        makes[MATRIX_PRODUCT] = make_matrix_product
    for name, arch in {**archs, 'ResNet-50': None}.items():
        theirs = f'{name}, {stock()}'
        makes[theirs] = partial(make, arch=arch, stock=True)
        makes[name] = partial(make, arch=arch)
        bases[theirs] = bases[name] = theirs
        if part != TRAINING or arch is None:
            continue
        others = CHECKPOINTED if args.device == 'cpu' else {**CHECKPOINTED, **ON_GPUS}
        for kind, backbone in others.items():
            makes[f'{name}, {kind}'] = partial(make, arch=arch, backbone=backbone)
            bases[f'{name}, {kind}'] = theirs
    rows = [dict(part=part, size=size, name=n, base=bases.get(n)) for n in makes]
    return in_turns(rows, list(makes.values()), max(args.rounds - 2, 1), args)
