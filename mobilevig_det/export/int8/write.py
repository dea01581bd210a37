"""The int8 file of a detector's float32 one."""

from pathlib import Path
from typing import Any

from mmdet.models import BaseDetector
from mmengine.config import Config

from ...datasets import check_data_paths
from ...errors import UserError
from ..packages import needed
from .accuracy import check_accuracy, evaluate
from .calibration import CalibrationInputs
from .onnx import quantize_onnx
from .openvino import quantize_openvino

PACKAGES = {'onnx': ('onnx', 'onnxruntime'), 'openvino': ('openvino', 'nncf')}
QUANTIZERS = {'.onnx': quantize_onnx, '.xml': quantize_openvino}


def check_int8(name: str, part: str, cfg: Config) -> None:
    """Check, before anything is done, that ``--int8`` can be.

    Raises:
        UserError: If a format's file of that part can't be in int8, or data or a
            package isn't there.
    """
    if name not in PACKAGES or part != 'detector':
        raise UserError(
            '--int8 is for --format onnx or openvino and --part detector: only of a '
            'whole detector can it be said what AP it costs.'
        )
    for key in ('train_dataloader', 'val_dataloader', 'val_evaluator'):
        if not cfg.get(key):
            raise UserError(
                f'--int8 needs training images to measure activations on and a '
                f'validation set for the AP; the config has no {key}.'
            )
    check_data_paths(cfg, ['train', 'val'])
    needed(*PACKAGES[name])


def write_int8(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    detector: BaseDetector,
    cfg: Config,
) -> None:
    """Write a detector's file whose layers compute in int8; all else is float32.

    Prints the AP of both files.

    Args:
        source (str | Path): The float32 .onnx or .xml file.
        path (str | Path): Of the new one, of the same format, in another folder.
        metadata (dict): Of the float32 file.
        detector (BaseDetector): The model that it was made of.
        cfg (Config): Its config, of whose data :func:`check_int8` knows.

    Raises:
        UserError: If too much AP is lost, or nothing is detected.
    """
    inputs = CalibrationInputs(cfg, detector)
    inputs.keep_detected(source)
    quantize = QUANTIZERS[Path(source).suffix]
    quantize(source, path, metadata | {'int8': True}, inputs)
    check_accuracy(evaluate(source, cfg), evaluate(path, cfg))
