"""ONNX files: a whole detector, or a backbone with its neck."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models import BaseDetector, FasterRCNN, MaskRCNN, RetinaNet, RTMDet
from torch import nn

from ..errors import UserError
from .covered import check_covered
from .dense import to_onnx
from .metadata import KEY, to_json
from .one_stage import build_retinanet, build_rtmdet_ins
from .onnx_glue.graph import Graph
from .onnx_glue.graph_steps import STEPS
from .packages import needed
from .two_stage import build_two_stage

if TYPE_CHECKING:
    import onnx

BUILDERS = {
    MaskRCNN: build_two_stage,
    FasterRCNN: build_two_stage,
    RetinaNet: build_retinanet,
    RTMDet: build_rtmdet_ins,
}
# What a backbone of any size is traced with.
EXAMPLE = (160, 224)


def write_onnx_detector(model: BaseDetector, path: str | Path, metadata: dict) -> None:
    """Write a whole detector, of any image size.

    Args:
        model (BaseDetector): Fused and in eval mode.
        path (str | Path): Of the file.
        metadata (dict): From :func:`..metadata.make_metadata`.

    Raises:
        UserError: If it isn't of a family that is covered.
    """
    check_covered(model)
    needed('onnx', 'onnxscript')
    save_onnx(BUILDERS[type(model)](model), path, metadata)


def write_onnx_backbone(
    model: nn.Module,
    path: str | Path,
    size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Write a backbone with its neck: ``image`` to ``map0``, ``map1``, ….

    Args:
        model (nn.Module): From images (1, 3, H, W) to a tuple of maps.
        path (str | Path): Of the file.
        size (tuple[int, int] | None): Height and width, if it shall take one only.
        metadata (dict): From :func:`..metadata.make_metadata`.
    """
    needed('onnx', 'onnxscript')
    example = torch.rand(1, 3, *(size or EXAMPLE))
    dynamic = [] if size else [2, 3]
    exported = to_onnx(model, example, 'backbone', dynamic)
    g = Graph()
    image = g.input('image', 'float32', [1, 3, *(size or ('height', 'width'))])
    maps = zip(g.call(exported, image, functions=STEPS), exported.graph.output)
    outputs = {
        f'map{i}': (value, 'float32', _shape(info))
        for i, (value, info) in enumerate(maps)
    }
    save_onnx(g.model(outputs), path, metadata)


def save_onnx(
    model: 'onnx.ModelProto', path: str | Path, metadata: dict[str, Any]
) -> None:
    """Write one file, with the metadata, and weights inside.

    Raises:
        UserError: If there is an operator that isn't ONNX's own.
    """
    import onnx

    others = {node.domain for node in model.graph.node} - {'', 'ai.onnx'}
    if others or model.functions:
        raise UserError(
            'The model has operators that are not of ONNX itself, which only some '
            f'runtimes have: {", ".join(sorted(others))}.'
        )
    onnx.helper.set_model_props(model, {KEY: to_json(metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _shape(info: 'onnx.ValueInfoProto') -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
