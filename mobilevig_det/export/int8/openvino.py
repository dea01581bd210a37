"""OpenVINO files in int8, by NNCF."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metadata import KEY, to_json
from ..packages import needed
from ..runtimes import openvino_core
from .calibration import CalibrationInputs

if TYPE_CHECKING:
    import openvino

# Those that multiply by weights.
WEIGHTED = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
NO_OPERATORS = ('Constant', 'Parameter', 'Result')


def quantize_openvino(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    inputs: CalibrationInputs,
) -> None:
    """Write an .xml and a .bin file whose layers compute in int8.

    Weights have seven bits, so that sums of two products fit into the 16 bits
    that CPUs without VNNI have for them; NNCF leaves eight to depthwise ones.

    Args:
        source (str | Path): The float32 .xml file.
        path (str | Path): Of the new one, in another folder.
        metadata (dict): Of the new one.
        inputs (CalibrationInputs): Images to measure activations on.
    """
    needed('openvino', 'nncf')  # which imports it without reports
    import nncf
    import openvino

    logging.getLogger('nncf').setLevel(logging.ERROR)
    model = openvino_core().read_model(str(source))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(inputs),
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=glue(model)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
    )
    quantized.set_rt_info(to_json(metadata), [KEY])
    openvino.save_model(quantized, str(path), compress_to_fp16=False)


def glue(model: 'openvino.Model') -> list[str]:
    """Names of the operators around the layers: they stay in float32.

    OpenVINO keeps the names of ONNX's nodes, but for some that it rewrites, which
    get one of its own.
    """
    names = []
    for node in model.get_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        nameless = '/' not in name and kind not in WEIGHTED
        if kind not in NO_OPERATORS and (nameless or name.startswith('glue/')):
            names.append(name)
    return names
