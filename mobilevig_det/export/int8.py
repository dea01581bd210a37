"""Post-training quantisation of detectors to int8.

ONNX Runtime quantises .onnx files, NNCF quantises OpenVINO files. Anchors, decoding,
NMS and RoIAlign stay in float32. Weights have seven bits, so that the sum of two
products does not overflow the 16-bit accumulators of CPUs without VNNI. The int8 file
is kept only if it loses little AP compared with the float32 file.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.models import BaseDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from terminaltables import AsciiTable

from ..datasets import check_data_paths, leaf_datasets
from ..errors import UserError
from .exported_detector import ExportedDetector
from .openvino import save_openvino
from .runtimes import BUILT, load, openvino_core, quiet, require

if TYPE_CHECKING:
    import onnx
    import openvino

PACKAGES = {
    'onnx': ('onnx', 'onnxscript', 'onnxruntime'),
    'openvino': ('openvino', 'nncf'),
}
NUMBER = 200  # Number of calibration images.
EVALUATED = 500  # Number of validation images.
MAX_LOSS = 0.006  # Maximum loss of AP, on a scale from 0 to 1.
# Operators with weights.
ONNX_LAYERS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
OPENVINO_LAYERS = (
    'Convolution',
    'GroupConvolution',
    'ConvolutionBackpropData',
    'MatMul',
)


def check_int8(name: str, part: str, cfg: Config) -> None:
    """Check, before anything is written, that ``--int8`` is possible.

    Args:
        name (str): The format, a key of ``FORMATS``.
        part (str): ``'detector'`` or ``'backbone'``.
        cfg (Config): The detector's config, with the calibration and validation sets.

    Raises:
        UserError: If the format or part is not supported, or data or a package is
            missing.
    """
    if name not in PACKAGES or part != 'detector':
        raise UserError(
            '--int8 is for --format onnx or openvino and --part detector: the loss of '
            'AP can be measured for a complete detector only.'
        )
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        if not cfg.get(key):
            raise UserError(
                '--int8 needs training images to calibrate on and a validation set '
                f'for the AP; the config has no {key}.'
            )
    check_data_paths(cfg, ['train', 'val'])
    require(*PACKAGES[name])


def write_int8(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    detector: BaseDetector,
    cfg: Config,
) -> None:
    """Quantise a detector's float32 file, and compare the AP of both files.

    Args:
        source (str | Path): The float32 .onnx or .xml file.
        path (str | Path): The int8 file, of the same format, in another folder.
        metadata (dict): Metadata of the float32 file.
        detector (BaseDetector): The model that was exported.
        cfg (Config): The detector's config, which :func:`check_int8` has accepted.

    Raises:
        UserError: If too much AP is lost, or nothing is detected in the images.
    """
    inputs = CalibrationInputs(cfg, detector)
    inputs.drop_images_without_detections(source)
    quantize = QUANTIZERS[Path(source).suffix]
    quantize(source, path, metadata | {'int8': True}, inputs)
    check_accuracy(evaluate(source, cfg), evaluate(path, cfg))


class CalibrationInputs:
    """Calibration inputs of an exported detector, from the config's training images.

    Images are preprocessed by the test pipeline and the detector's
    ``data_preprocessor``. Each item is a dict with ``image``, float32 of shape
    (1, 3, H, W), and ``size``, int64 of shape (2,). The object can be iterated several
    times and keeps one image in memory.

    Args:
        cfg (Config): The detector's config.
        detector (BaseDetector): The detector, which preprocesses the images.
        number (int): Number of images, evenly spaced over the training set.
            Defaults to 200.
    """

    def __init__(self, cfg: Config, detector: BaseDetector, number: int = NUMBER):
        self._preprocess = detector.data_preprocessor
        self._dataset = DATASETS.build(
            dict(
                next(leaf_datasets(cfg.train_dataloader.dataset)),
                pipeline=next(leaf_datasets(cfg.test_dataloader.dataset))['pipeline'],
                test_mode=True,
            )
        )
        number = min(number, len(self._dataset))
        spaced = np.linspace(0, len(self._dataset) - 1, number)
        self._indices: list[int] = spaced.astype(int).tolist()

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for index in self._indices:
            batch = pseudo_collate([self._dataset[index]])
            data = self._preprocess(batch, False)
            size = data['data_samples'][0].img_shape[:2]
            yield dict(image=data['inputs'].numpy(), size=np.array(size, np.int64))

    def drop_images_without_detections(self, path: str | Path) -> None:
        """Drop the images in which an exported detector detects nothing.

        Without boxes, the range of the mask head's activations can't be measured.

        Args:
            path (str | Path): The float32 file of the detector.

        Raises:
            UserError: If no images remain.
        """
        session = load(path)
        number = len(self)
        detected = [len(session(**arrays)['boxes']) > 0 for arrays in self]
        self._indices = [i for i, keep in zip(self._indices, detected) if keep]
        if not self._indices:
            raise UserError(
                f'--int8: the model detects nothing in {number} images of the '
                'training set, so its activations cannot be calibrated: train it '
                'first.'
            )
        print(
            f'Calibrating on the {len(self)} of {number} training images in which '
            'something is detected.'
        )


def quantize_onnx(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    inputs: CalibrationInputs,
) -> None:
    """Quantise an .onnx file with QuantizeLinear and DequantizeLinear (QDQ) nodes.

    Args:
        source (str | Path): The float32 .onnx file.
        path (str | Path): The int8 file.
        metadata (dict): Metadata of the int8 file.
        inputs (CalibrationInputs): The calibration images.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from .onnx import save_onnx

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._iterator = iter(inputs)

        def get_next(self):
            return next(self._iterator, None)

    model = onnx.load(str(source))
    # Hide its advice to preprocess the model, which would fix the image size.
    with quiet():
        quantize_static(
            model,
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(ONNX_LAYERS),
            nodes_to_quantize=layers_to_quantize(model),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    save_onnx(onnx.load(str(path)), path, metadata)


def layers_to_quantize(model: 'onnx.ModelProto') -> list[str]:
    """Return the names of the layers to quantise.

    The last layers, whose scores and boxes only the post-processing reads, are
    excluded: ONNX Runtime would round their outputs to 256 values.

    Args:
        model (onnx.ModelProto): The float32 model.
    """
    read_by_post_processing: set[str] = set()
    read_by_layers: set[str] = set()
    for node in model.graph.node:
        is_built = node.name.startswith(BUILT)
        (read_by_post_processing if is_built else read_by_layers).update(node.input)
    last = read_by_post_processing - read_by_layers
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ONNX_LAYERS
        and not node.name.startswith(BUILT)
        and node.output[0] not in last
    ]


def quantize_openvino(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    inputs: CalibrationInputs,
) -> None:
    """Quantise an OpenVINO model.

    NNCF keeps eight bits for the weights of depthwise convolutions.

    Args:
        source (str | Path): The float32 .xml file.
        path (str | Path): The int8 file, in another folder.
        metadata (dict): Metadata of the int8 file.
        inputs (CalibrationInputs): The calibration images.
    """
    require('openvino', 'nncf')  # imports them without telemetry
    import nncf

    logging.getLogger('nncf').setLevel(logging.ERROR)
    model = openvino_core().read_model(str(source))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(inputs),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=operators_in_float32(model)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
    )
    save_openvino(quantized, path, metadata)


def operators_in_float32(model: 'openvino.Model') -> list[str]:
    """Return the names of the operators that are not quantised.

    OpenVINO keeps the names of ONNX nodes, except for nodes that it rewrites, whose new
    names contain no slash.

    Args:
        model (openvino.Model): The float32 model.
    """
    names = []
    for node in model.get_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        is_rewritten = '/' not in name and kind not in OPENVINO_LAYERS
        is_operator = kind not in ('Constant', 'Parameter', 'Result')
        if is_operator and (is_rewritten or name.startswith(BUILT)):
            names.append(name)
    return names


QUANTIZERS = {'.onnx': quantize_onnx, '.xml': quantize_openvino}


def evaluate(
    path: str | Path, cfg: Config, number: int = EVALUATED
) -> dict[str, float]:
    """Evaluate an exported detector with the config's ``val_evaluator``.

    Args:
        path (str | Path): The .onnx or .xml file.
        cfg (Config): The config of the detector.
        number (int): Number of images, from the start of the validation set. Defaults
            to 500.

    Returns:
        dict[str, float]: Each AP, for example ``coco/bbox_mAP`` and
        ``coco/segm_mAP``, from 0 to 1.

    Raises:
        UserError: If the evaluator computes no AP.
    """
    with quiet():
        loader = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader))
        evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
    evaluator.dataset_meta = loader.dataset.metainfo
    model = ExportedDetector(str(path), cfg.model.data_preprocessor).eval()
    seen: list[int] = []
    for batch in loader:
        samples = model.val_step(batch)
        evaluator.process(data_samples=samples, data_batch=batch)
        seen += [sample.img_id for sample in samples]
        if len(seen) >= number:
            break
    for metric in evaluator.metrics:
        if hasattr(metric, 'img_ids'):
            metric.img_ids = seen  # or CocoMetric counts all others as missed
    with quiet():
        found = evaluator.evaluate(len(seen))
    aps = {key: value for key, value in found.items() if key.endswith('AP')}
    if not aps:
        raise UserError(
            "--int8: the config's val_evaluator computes no AP, only "
            f'{", ".join(found)}.'
        )
    kind = 'int8' if model.metadata.get('int8') else 'float32'
    print(f'{Path(path).name} in {kind}: {len(seen)} validation images.')
    return aps


def check_accuracy(
    float32: Mapping[str, float], int8: Mapping[str, float], max_loss: float = MAX_LOSS
) -> None:
    """Print the AP of both files, and check that int8 does not lose too much.

    Args:
        float32 (Mapping[str, float]): Each AP of the float32 file, from 0 to 1.
        int8 (Mapping[str, float]): Each AP of the int8 file, from 0 to 1.
        max_loss (float): Maximum loss of AP, from 0 to 1. Defaults to 0.006.

    Raises:
        UserError: If an AP decreases by more than ``max_loss``.
    """
    header = ['AP', 'float32', 'int8', 'lost']
    rows = [
        [key, f'{ap:.3f}', f'{int8[key]:.3f}', f'{ap - int8[key]:.3f}']
        for key, ap in float32.items()
    ]
    print(AsciiTable([header, *rows]).table)
    if not any(ap > 0 for ap in float32.values()):
        print('Every AP of the float32 file is 0, so this says nothing about int8.')
    # Metrics are rounded to thousandths, whose differences are not exact in binary.
    wrong = [
        row for row in rows if not float32[row[0]] - int8[row[0]] <= max_loss + 1e-9
    ]
    if wrong:
        words = ', '.join(f'{key} {drop} ({a} to {b})' for key, a, b, drop in wrong)
        raise UserError(
            f'The int8 file is not kept, because it loses more AP than the limit of '
            f'{max_loss}: {words}. Export the detector without --int8.'
        )
