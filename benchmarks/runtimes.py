"""Exported models in their runtimes, compared with PyTorch."""

import runpy
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilevig_det.backbones import MobileViG, fuse_backbones
from mobilevig_det.config import load_config
from mobilevig_det.datasets.shapes import paint, sample_scene
from mobilevig_det.export import find_ort_web, load, make_metadata
from mobilevig_det.export.executorch import write_executorch
from mobilevig_det.export.onnx import write_onnx_backbone, write_onnx_detector
from mobilevig_det.export.openvino import write_openvino
from mobilevig_det.mmcv_ops import use_on_cpus

import numpy as np
import torch
from mmdet.models import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from .backbones import (
    MATRIX_PRODUCT,
    build,
    count_work,
    make_inference,
    make_matrix_product,
)
from .interleaved import interleaved, show_progress

# Names of the runtimes by the suffixes of their files.
NAMES = {'.onnx': 'ONNX Runtime', '.xml': 'OpenVINO', '.pte': 'ExecuTorch'}
EAGER, FUSED = 'MMDetection', 'fused'
DEMO = Path('work_dirs', 'demo')
DEMO_CONFIG, FULL_CONFIG = 'mobilevig_ti_fpn_shapes', 'mobilevig_m_fpn_1x'
EXPORTED = Path('work_dirs', 'export')
RUNNER = Path(__file__).parents[1] / 'tools' / 'run_onnx.py'


def runtime_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of backbones and detectors.

    They are the backbones at each of ``args.sizes``, the detector of ``make demo`` if
    it has been trained, and Mask R-CNN with MobileViG-M at the last of the sizes.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for size in args.sizes:
            for arch in args.archs:
                yield from _backbone_rows(args, arch, size, folder)
        demo = sorted(DEMO.glob('epoch_*.pth'))
        if demo:
            yield from _detector_rows(
                args, DEMO_CONFIG, str(demo[-1]), '128x128', folder
            )
        else:
            print(f'The detector of `make demo` is left out: {DEMO} has no checkpoint.')
        yield from _detector_rows(args, FULL_CONFIG, None, args.sizes[-1], folder)


def _backbone_rows(
    args: Namespace, arch: str, size: str, folder: Path
) -> Iterator[dict]:
    make = partial(make_inference, size=size, build=partial(build, MobileViG, arch))
    makes: dict[str, Callable] = {
        MATRIX_PRODUCT: make_matrix_product,
        'PyTorch': make,
        f'PyTorch, {FUSED}': partial(make, fuse=True),
    }
    show_progress(f'runtimes {size}: MobileViG-{arch}, exporting')
    paths = export_backbone(build(MobileViG, arch).eval().fuse(), size, folder / arch)
    for path in paths:
        makes[NAMES[path.suffix]] = partial(make_session, path=path, size=size)
    makes['wasm, one thread'] = partial(make_wasm, path=paths[0], size=size)
    yield from _rows(args, f'MobileViG-{arch}', size, 'PyTorch', makes)


def _detector_rows(
    args: Namespace, config: str, checkpoint: str | None, size: str, folder: Path
) -> Iterator[dict]:
    show_progress(f'runtimes {size}: {config}, exporting')
    paths = _export_detector(
        *make_mask_rcnn(config, checkpoint), folder / Path(config).stem
    )
    make = partial(make_prediction, config=config, checkpoint=checkpoint, size=size)
    makes: dict[str, Callable] = {
        MATRIX_PRODUCT: make_matrix_product,
        EAGER: make,
        f'{EAGER}, {FUSED}': partial(make, fuse=True),
    }
    for path in paths:
        makes[NAMES[path.suffix]] = partial(make, path=path)
        int8 = EXPORTED / f'{Path(config).stem}_int8{path.suffix}'
        if int8.is_file():
            makes[f'{NAMES[path.suffix]}, int8'] = partial(make, path=int8)
    yield from _rows(args, config, size, EAGER, makes)


def _rows(
    args: Namespace, model: str, size: str, base: str, makes: dict[str, Callable]
) -> Iterator[dict]:
    rows = interleaved(args, 'runtimes', f'{model}, {size}', makes, base)
    # The operations are the same in all runtimes; those of PyTorch are counted.
    work = {key: rows[1][key] for key in ('gmacs', 'params') if key in rows[1]}
    for row in rows[2:]:
        row.update(work)
        if row['name'].split(',')[0] not in (EAGER, 'PyTorch'):
            row.pop('peak_bytes', None)  # PyTorch doesn't see other runtimes' memory
    yield from rows


def export_backbone(
    model: nn.Module, size: str, folder: Path, last: str = '.pte'
) -> list[Path]:
    """Export a backbone for an input size to the runtimes up to ``last``."""
    height, width = map(int, size.split('x'))
    metadata = dict(format=1, part='backbone', fixed_size=[height, width])
    folder.mkdir(exist_ok=True)
    paths = [folder / f'{size}{suffix}' for suffix in NAMES]
    paths = paths[: list(NAMES).index(last) + 1]
    write_onnx_backbone(model, paths[0], (height, width), metadata)
    if len(paths) > 1:
        write_openvino(paths[0], paths[1], metadata)
    if len(paths) > 2:
        write_executorch(model, paths[2], (height, width), metadata)
    return paths


def _export_detector(cfg: Config, model: BaseDetector, folder: Path) -> list[Path]:
    fuse_backbones(model)
    classes = tuple(map(str, range(model.roi_head.bbox_head.num_classes)))
    metadata = make_metadata(cfg, model, classes, 'detector')
    folder.mkdir(exist_ok=True)
    paths = [folder / 'model.onnx', folder / 'model.xml']
    write_onnx_detector(model, paths[0], metadata)
    write_openvino(paths[0], paths[1], metadata)
    return paths


def make_mask_rcnn(config: str, checkpoint: str | None) -> tuple[Config, BaseDetector]:
    """Build a Mask R-CNN in eval mode.

    Without a checkpoint, its weights are random and it detects as many objects of one
    class as the config allows, which is the slowest case.
    """
    use_on_cpus()
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg = load_config(config)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    if checkpoint is None:
        with torch.no_grad():
            model.roi_head.bbox_head.fc_cls.bias[0] += 5
    else:
        load_checkpoint(model, checkpoint, 'cpu', strict=True)
    return cfg, model


def make_session(args: Namespace, path: Path, size: str):
    """Run an exported backbone in its runtime on a random image."""
    session = load(path, args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    image = torch.rand(1, 3, *map(int, size.split('x'))).numpy()
    return {}, lambda: session(image=image)


def make_wasm(args: Namespace, path: Path, size: str):
    """Run a backbone in Node with ONNX Runtime for WebAssembly."""
    script, runtime = Path(__file__).with_name('wasm.mjs'), find_ort_web() / 'dist'
    node = subprocess.Popen(
        ['node', script, runtime, path, *size.split('x')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def run():
        print('go', file=node.stdin)
        if not (node.stdout and node.stdout.readline()):
            raise RuntimeError('Node has ended')

    return {}, run


def make_prediction(
    args: Namespace,
    config: str,
    checkpoint: str | None,
    size: str,
    fuse: bool = False,
    path: Path | None = None,
):
    """Make a prediction from an image to boxes and masks of the same size.

    MMDetection runs the model, or ``tools/run_onnx.py`` the exported file at ``path``,
    as users without MMDetection run it.
    """
    image = shapes_image(*map(int, size.split('x')))
    if path is not None:
        detector = runpy.run_path(str(RUNNER))['Detector'](str(path))
        return {}, lambda: detector(image)
    _, model = make_mask_rcnn(config, checkpoint)
    sides = image.shape[:2]
    sample = DetDataSample(
        metainfo=dict(img_shape=sides, ori_shape=sides, scale_factor=(1.0, 1.0))
    )
    tensor = torch.from_numpy(image).permute(2, 0, 1)

    def run():
        with torch.no_grad():
            model.test_step(dict(inputs=[tensor], data_samples=[sample]))

    facts = count_work(model, run)
    if fuse:
        fuse_backbones(model)
    return facts, run


def shapes_image(height: int, width: int) -> np.ndarray:
    """Draw an image like the demo's: uint8 (H, W, 3)."""
    rng, side = np.random.default_rng(0), max(height, width)
    image = paint(rng, sample_scene(rng, side, 3), side)
    return np.ascontiguousarray(image[:height, :width])
