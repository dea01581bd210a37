"""Post-training quantisation: detectors whose layers compute in int8.

ONNX Runtime quantises .onnx files, NNCF those of OpenVINO. Anchors, decoding, NMS and
RoIAlign stay in float32. Weights have seven bits, so that the sum of two products fits
into the 16 bits that CPUs without VNNI have for it. The AP of both files decides
whether the int8 file is kept.
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
NUMBER = 200  # of calibration images
EVALUATED = 500  # number of validation images
MAX_LOSS = 0.006  # of AP, which is at most 1
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

    Raises:
        UserError: If the format or part is not supported, or data or a package is
            missing.
    """
    if name not in PACKAGES or part != 'detector':
        raise UserError(
            '--int8 is for --format onnx or openvino and --part detector: only of a '
            'whole detector can it be said what AP it costs.'
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
    """Quantise a detector's float32 file; print the AP of both files.

    Args:
        source (str | Path): The float32 .onnx or .xml file.
        path (str | Path): The int8 file, of the same format, in another folder.
        metadata (dict): Metadata of the float32 file.
        detector (BaseDetector): The model that was exported.
        cfg (Config): Its config, of which :func:`check_int8` approves.

    Raises:
        UserError: If too much AP is lost, or nothing is detected.
    """
    inputs = CalibrationInputs(cfg, detector)
    inputs.drop_images_without_detections(source)
    quantize = QUANTIZERS[Path(source).suffix]
    quantize(source, path, metadata | {'int8': True}, inputs)
    check_accuracy(evaluate(source, cfg), evaluate(path, cfg))


class CalibrationInputs:
    """Inputs of an exported detector, from the config's training images.

    The images go through the test pipeline and the detector's ``data_preprocessor``.
    Each item is a dict: ``image`` (1, 3, H, W) and ``size`` (2,). It can be iterated
    over several times; one image at a time is in memory.

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
        """Drop images in which an exported detector detects nothing.

        Without a box, the activations of its mask head have no range to measure.

        Raises:
            UserError: If no image is left.
        """
        session = load(path)
        number = len(self)
        detected = [len(session(**arrays)['boxes']) > 0 for arrays in self]
        self._indices = [i for i, keep in zip(self._indices, detected) if keep]
        if not self._indices:
            raise UserError(
                f'--int8: the model detects nothing in {number} images of the '
                'training set, so that its activations cannot be measured: train '
                'it first.'
            )
        print(
            f'Calibrating on {len(self)} training images: those of {number} in which '
            'something is detected.'
        )


def quantize_onnx(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    inputs: CalibrationInputs,
) -> None:
    """Write an .onnx file whose layers are between QuantizeLinear and DequantizeLinear.

    Args:
        source (str | Path): The float32 .onnx file.
        path (str | Path): The int8 file.
        metadata (dict): Metadata of the int8 file.
        inputs (CalibrationInputs): Images to measure activations on.
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
    # It advises to prepare the model, which would fix its sizes.
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
    """Return the names of the layers that shall compute in int8.

    The last layers, whose scores and boxes only the post-processing reads, are not
    among them: ONNX Runtime would round their outputs to 256 values.
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
    """Write an .xml and a .bin file whose layers compute in int8.

    NNCF leaves eight bits to the weights of depthwise convolutions.

    Args:
        source (str | Path): The float32 .xml file.
        path (str | Path): The int8 file, in another folder.
        metadata (dict): Metadata of the int8 file.
        inputs (CalibrationInputs): Images to measure activations on.
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
    """Return the names of the operators around the layers.

    OpenVINO keeps the names of ONNX's nodes, except for some that it rewrites, whose
    new names have no slash.
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
        number (int): Number of images: the first ones of the validation set.
            Defaults to 500.

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
            metric.img_ids = seen  # else COCO's metric counts the others as missed
    with quiet():
        found = evaluator.evaluate(len(seen))
    aps = {key: value for key, value in found.items() if key.endswith('AP')}
    if not aps:
        raise UserError(
            f"--int8: the config's val_evaluator gives no AP, but {', '.join(found)}."
        )
    kind = 'int8' if model.metadata.get('int8') else 'float32'
    print(f'{Path(path).name} in {kind}: {len(seen)} validation images.')
    return aps


def check_accuracy(
    float32: Mapping[str, float], int8: Mapping[str, float], max_loss: float = MAX_LOSS
) -> None:
    """Print the AP of both files, and raise if int8 loses too much.

    Args:
        float32 (Mapping[str, float]): From :func:`evaluate`.
        int8 (Mapping[str, float]): Likewise.
        max_loss (float): The largest loss of AP that is allowed, from 0 to 1.

    Raises:
        UserError: If any AP falls by more.
    """
    header = ['AP', 'float32', 'int8', 'lost']
    rows = [
        [key, f'{ap:.3f}', f'{int8[key]:.3f}', f'{ap - int8[key]:.3f}']
        for key, ap in float32.items()
    ]
    print(AsciiTable([header, *rows]).table)
    if not any(ap > 0 for ap in float32.values()):
        print('Every AP of the float32 file is 0, so this says nothing about int8.')
    # Metrics round to thousandths, whose differences are not exact.
    wrong = [
        row for row in rows if not float32[row[0]] - int8[row[0]] <= max_loss + 1e-9
    ]
    if wrong:
        words = ', '.join(f'{key} {drop} ({a} to {b})' for key, a, b, drop in wrong)
        raise UserError(
            f'In int8 the detector loses more AP than the {max_loss} that are allowed, '
            f'and is not kept: {words}. Export it without --int8.'
        )
