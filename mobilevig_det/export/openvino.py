"""OpenVINO files, made from ONNX ones."""

from pathlib import Path
from typing import Any

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
    """
    needed('openvino', 'onnx')
    import onnx
    import openvino

    with without_reports():
        model = openvino.convert_model(str(onnx_path))
    # An output keeps the names of what was simplified away behind it.
    for port, output in zip(model.outputs, onnx.load(str(onnx_path)).graph.output):
        port.set_names({output.name})
    model.set_rt_info(to_json(metadata), [KEY])
    # By default it rounds weights to float16.
    openvino.save_model(model, str(path), compress_to_fp16=False)
