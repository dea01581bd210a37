"""ONNX files in int8, by ONNX Runtime: QuantizeLinear and DequantizeLinear."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metadata import KEY, to_json
from .calibration import CalibrationInputs

if TYPE_CHECKING:
    import onnx

# Those that multiply by weights.
WEIGHTED = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


def quantize_onnx(
    source: str | Path,
    path: str | Path,
    metadata: dict[str, Any],
    inputs: CalibrationInputs,
) -> None:
    """Write an .onnx file whose layers compute in int8.

    Weights have seven bits, so that sums of two products fit into the 16 bits
    that CPUs without VNNI have for them.

    Args:
        source (str | Path): The float32 .onnx file.
        path (str | Path): Of the new one.
        metadata (dict): Of the new one.
        inputs (CalibrationInputs): Images to measure activations on.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._left = iter(inputs)

        def get_next(self):
            return next(self._left, None)

    model = onnx.load(str(source))
    with _hushed():
        quantize_static(
            model,
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(WEIGHTED),
            nodes_to_quantize=layers(model),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    quantized = onnx.load(str(path))
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, {KEY: to_json(metadata)})
    onnx.save_model(quantized, str(path))


def layers(model: 'onnx.ModelProto') -> list[str]:
    """Names of the layers that shall compute in int8.

    Not those of the glue, and not the last ones, whose scores and boxes the glue
    alone reads: ONNX Runtime would round them to 256 values.
    """
    glue, others = (
        {
            name
            for node in model.graph.node
            if node.name.startswith('glue/') == of_glue
            for name in node.input
        }
        for of_glue in (True, False)
    )
    names = []
    for node in model.graph.node:
        last = node.output[0] in glue - others
        if node.op_type in WEIGHTED and not last and not node.name.startswith('glue/'):
            names.append(node.name)
    return names


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without advice to prepare the model, which would fix its sizes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
