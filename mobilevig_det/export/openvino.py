"""OpenVINO files, made from ONNX ones."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from .metadata import KEY, to_json
from .packages import needed, without_reports


def write_openvino(
    onnx_path: str | Path, path: str | Path, metadata: dict[str, Any]
) -> None:
    """Write an .xml file and, beside it, the .bin with its weights, in float32.

    Args:
        onnx_path (str | Path): Of the .onnx file.
        path (str | Path): Of the .xml file.
        metadata (dict): From :func:`..metadata.make_metadata`.

    Raises:
        UserError: If there is a loop in it: of the second image of one size and of
            later ones OpenVINO (2026.4) may compute nonsense.
    """
    needed('openvino', 'onnx')
    import onnx
    import openvino

    graph = onnx.load(str(onnx_path)).graph
    if any(node.op_type == 'Loop' for node in graph.node):
        raise UserError(
            'OpenVINO does not compute the loops of a GreedyViG for images of any size '
            'reliably. --format onnx does; or --part backbone --size H W, for one size.'
        )
    with without_reports():
        model = openvino.convert_model(str(onnx_path))
    # An output keeps the names of what was simplified away behind it.
    for port, output in zip(model.outputs, graph.output):
        port.set_names({output.name})
    model.set_rt_info(to_json(metadata), [KEY])
    # By default it rounds weights to float16.
    openvino.save_model(model, str(path), compress_to_fp16=False)
