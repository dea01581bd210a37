"""ONNX files: complete detectors, or backbones with their necks.

PyTorch's exporter converts the layers (``layers``). The other computations of
MMDetection are written with a graph builder (``graph``): anchors, box decoding and NMS
(``post_processing``), RoIAlign and masks (``detectors``). Importing this package
requires onnx and onnxscript, see :func:`..runtimes.require`.
"""

from pathlib import Path
from typing import Any

import onnx
import torch
from mmdet.models import BaseDetector
from torch import nn

from ...errors import UserError
from ..metadata import METADATA_KEY, to_json
from ..supported import check_supported
from .detectors import BUILDERS
from .graph import Graph
from .layers import EXAMPLE_SIZE, STEPS, to_onnx


def write_onnx_detector(model: BaseDetector, path: str | Path, metadata: dict) -> None:
    """Write a complete detector for images of any size.

    Args:
        model (BaseDetector): The detector, fused and in eval mode.
        path (str | Path): The .onnx file.
        metadata (dict): From :func:`..metadata.make_metadata`.

    Raises:
        UserError: If the detector is not supported, see
            :func:`..supported.check_supported`.
    """
    check_supported(model)
    save_onnx(BUILDERS[type(model)](model), path, metadata)


def write_onnx_backbone(
    model: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Write a backbone with its neck.

    The input is ``image``; the outputs are ``map0``, ``map1`` and so on.

    Args:
        model (nn.Module): Maps images (1, 3, H, W) to a tuple of feature maps.
        path (str | Path): The .onnx file.
        size (tuple[int, int] | None): The only height and width that the file
            accepts; None for images of any size.
        metadata (dict): From :func:`..metadata.make_metadata`.
    """
    example = torch.rand(1, 3, *(size or EXAMPLE_SIZE))
    traced = to_onnx(model, example, 'backbone', [] if size else [2, 3])
    g = Graph()
    image = g.input('image', 'float32', [1, 3, *(size or ('height', 'width'))])
    maps = zip(g.inline(traced, image, functions=STEPS), traced.graph.output)
    outputs = {
        f'map{i}': (value, 'float32', _shape(info))
        for i, (value, info) in enumerate(maps)
    }
    save_onnx(g.model(outputs), path, metadata)


def save_onnx(
    model: onnx.ModelProto, path: str | Path, metadata: dict[str, Any]
) -> None:
    """Write one .onnx file that includes the weights and the metadata.

    Args:
        model (onnx.ModelProto): The model.
        path (str | Path): The .onnx file.
        metadata (dict): The metadata, from :func:`..metadata.make_metadata`.

    Raises:
        UserError: If the model has operators that are not part of ONNX.
    """
    others = {node.domain for node in model.graph.node} - {'', 'ai.onnx'}
    if others or model.functions:
        raise UserError(
            'The model has operators that are not part of ONNX, which most runtimes '
            f'lack: {", ".join(sorted(others))}.'
        )
    onnx.helper.set_model_props(model, {METADATA_KEY: to_json(metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _shape(info: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
