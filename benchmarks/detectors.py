"""Detectors with MobileViG and ResNet-50: ours compared with stock MMDetection."""

import functools
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

from mobilevig_det.config import load_config
from mobilevig_det.datasets.loading import CompactBitmapMasks
from mobilevig_det.mmcv_ops import mmcv_ext, use_on_cpus
from mobilevig_det.ops.cpu_fast_paths import apply_cpu_fast_paths

import torch
from mmdet.models import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmdet.testing import demo_mm_inputs
from mmengine.registry import init_default_scope

from .backbones import MATRIX_PRODUCT, count_work, make_matrix_product
from .interleaved import interleaved, synchronize

# Under --amp. Compiled mmcv supports float16, but not bfloat16.
DETECTOR_AMP = torch.float16
GPU_BATCHES = 2, 8, 16
TF32 = 'TF32'
TRAINING, PREDICTION = 'detector, training step', 'detector, inference'
DETECTIONS = 'detector, inference with 100 detections'
# Backbone arguments of further training steps; all but the first are for GPUs only.
VARIANTS: dict[str, dict] = {
    "with_cp='act'": dict(with_cp='act'),
    'compiled backbone': dict(compile_cfg=dict(fullgraph=True)),
    'captured backbone': dict(compile_cfg=dict(fullgraph=True, mode='reduce-overhead')),
}
# Stages of a step in the order of the plot. The time of a nested stage is not counted
# in the stage around it.
STAGES = (
    'backbone',
    'neck',
    'RPN',
    'RoI heads',
    'mask targets',
    'mask pasting',
    'backward',
    'optimizer',
    'rest',
)


def stock_name() -> str:
    """Return the name of the baseline, which depends on whether mmcv is compiled."""
    return 'stock' if mmcv_ext.is_compiled() else 'stock heads on our operators'


@contextmanager
def precision_of(device: str, precision: str) -> Iterator[None]:
    """Run the block under autocast to 'float16' or 'bfloat16', or with TF32."""
    torch.set_float32_matmul_precision('high' if precision == TF32 else 'highest')
    torch.backends.cudnn.allow_tf32 = precision == TF32
    half = getattr(torch, precision) if '16' in precision else torch.float16
    with torch.autocast(device, half, enabled='16' in precision):
        yield


def measure_stages(
    model: BaseDetector,
    optimizer: torch.optim.Optimizer,
    run: Callable[[], None],
    device: str,
) -> dict[str, float]:
    """Measure the seconds in each of :data:`STAGES` of a step.

    Args:
        model (BaseDetector): A two-stage detector with a neck.
        optimizer (torch.optim.Optimizer): The optimizer whose step is timed.
        run (Callable): Runs a training step or a prediction. It is called twice, and
            the second call is measured.
        device (str): 'cpu', or 'cuda', which is synchronised between stages.

    Returns:
        dict[str, float]: Seconds of the stages that ran.
    """
    # A compiled backbone is timed from outside, as its modules' methods are not called.
    compiled = getattr(model.backbone, '_compiled_call_impl', None) is not None
    watched = [
        (model.backbone, '_compiled_call_impl' if compiled else 'forward', 'backbone'),
        (model.neck, 'forward', 'neck'),
        (model.rpn_head, 'loss_and_predict', 'RPN'),
        (model.rpn_head, 'predict', 'RPN'),
        (model.roi_head, 'loss', 'RoI heads'),
        (model.roi_head, 'predict', 'RoI heads'),
        (model.roi_head.mask_head, 'get_targets', 'mask targets'),
        (model.roi_head.mask_head, 'predict_by_feat', 'mask pasting'),
        (optimizer, 'step', 'optimizer'),
        (torch.Tensor, 'backward', 'backward'),
    ]
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]  # seconds of the stages within the current one

    def timed(function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            synchronize(device)
            start = time.perf_counter()
            inner.append(0.0)
            out = function(*args, **kwargs)
            synchronize(device)
            took = time.perf_counter() - start
            seconds[stage] += took - inner.pop()
            inner[-1] += took
            return out

        return wrapper

    run()
    with ExitStack() as patches:
        for owner, name, stage in watched:
            function = timed(getattr(owner, name), stage)
            patches.enter_context(patch.object(owner, name, function))
        timed(run, 'rest')()
    return {stage: seconds[stage] for stage in STAGES if seconds[stage]}


def make_detector(
    args: Namespace,
    arch: str | None,
    part: str,
    stock: bool = False,
    backbone: dict | None = None,
    batch: int = 1,
    precision: str = 'float32',
):
    """Make a training step with AdamW, or a prediction, of a Mask R-CNN.

    The weights are random.

    Args:
        args (Namespace): Arguments of the command.
        arch (str | None): Size of MobileViG; None for ResNet-50.
        part (str): TRAINING, PREDICTION or DETECTIONS.
        stock (bool): Use mmcv's operators, compiled where it has them, and masks as
            MMDetection loads them, instead of ours. Defaults to False.
        backbone (dict, optional): Further arguments of the backbone.
        batch (int): Images per step. Defaults to 1.
        precision (str): 'float32', 'TF32', 'float16' or 'bfloat16'. Defaults to
            'float32'.

    Returns:
        tuple[dict, Callable]: Facts about the row, and the function to time.
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
    if part == DETECTIONS:  # detect the first class in every proposal
        model.roi_head.bbox_head.fc_cls.bias.data[0] += 5
    shape = [3, *map(int, args.sizes[-1].split('x'))]
    inputs = demo_mm_inputs(
        batch, [shape] * batch, num_items=[8] * batch, num_classes=80, with_mask=True
    )
    for sample in inputs['data_samples']:
        masks = sample.gt_instances.masks.masks.astype('uint8')  # as they are loaded
        make_masks = BitmapMasks if stock else CompactBitmapMasks.from_bitmaps
        sample.gt_instances.masks = make_masks(masks, *shape[1:])
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
    if not training:  # before Winograd's algorithm reduces the operations
        facts |= count_work(model, run, batch)
    if not stock:
        apply_cpu_fast_paths(model)
    facts['stages'] = measure_stages(model, optimizer, run, args.device)
    return facts, run


def detector_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of detectors at the last of ``args.sizes``.

    On a GPU, several batch sizes and precisions are measured unless flags choose one.
    """
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
    makes: dict[str, Callable] = {}
    if part != TRAINING:
        makes[MATRIX_PRODUCT] = make_matrix_product
    archs: dict[str, str | None] = {f'MobileViG-{arch}': arch for arch in args.archs}
    for name, arch in {**archs, 'ResNet-50': None}.items():
        makes[_base_of(name)] = partial(make, arch=arch, stock=True)
        makes[name] = partial(make, arch=arch)
        if part != TRAINING or arch is None:
            continue
        for kind in list(VARIANTS)[: 1 if args.device == 'cpu' else None]:
            makes[f'{name}, {kind}'] = partial(make, arch=arch, backbone=VARIANTS[kind])
    return interleaved(args, part, size, makes, _base_of, max(args.rounds - 2, 1))


def _base_of(name: str) -> str:
    return f'{name.split(",")[0]}, {stock_name()}'
