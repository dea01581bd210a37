"""OpenVINO files, converted from ONNX files."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from .metadata import METADATA_KEY, to_json
from .runtimes import require, without_telemetry


def write_openvino(
    onnx_path: str | Path, path: str | Path, metadata: dict[str, Any]
) -> None:
    """Write an .xml file and, next to it, a .bin file with the float32 weights.

    Args:
        onnx_path (str | Path): The .onnx file to convert.
        path (str | Path): The .xml file.
        metadata (dict): The metadata, from :func:`.metadata.make_metadata`.

    Raises:
        UserError: If the model has a loop, for which OpenVINO 2026.4 may compute wrong
            results from the second image of the same size on.
    """
    require('openvino', 'onnx')
    import onnx
    import openvino

    graph = onnx.load(str(onnx_path)).graph
    if any(node.op_type == 'Loop' for node in graph.node):
        raise UserError(
            'OpenVINO does not compute the loops of a GreedyViG for images of any size '
            'reliably. Use --format onnx, or --part backbone --size H W for one size.'
        )
    with without_telemetry():
        model = openvino.convert_model(str(onnx_path))
    # Drop the additional names of operators that the conversion has removed.
    for port, output in zip(model.outputs, graph.output):
        port.set_names({output.name})
    save_openvino(model, path, metadata)


def save_openvino(model: Any, path: str | Path, metadata: dict[str, Any]) -> None:
    """Save an ``openvino.Model`` with its metadata.

    Args:
        model (openvino.Model): The model.
        path (str | Path): The .xml file.
        metadata (dict): The metadata, which becomes part of the .xml file.
    """
    import openvino

    model.set_rt_info(to_json(metadata), [METADATA_KEY])
    # The default would round the weights to float16.
    openvino.save_model(model, str(path), compress_to_fp16=False)
