"""Layers of a detector in ONNX, by PyTorch's exporter, and what all detectors share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from mmdet.models import BaseDetector
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...custom_op import symbolic_graph_steps
from ...errors import UserError
from ..runtimes import quiet, require
from .graph import OPSET, Graph, Value
from .graph_steps import STEPS

if TYPE_CHECKING:
    import onnx

# Size of the images to trace with. It says nothing about the sizes that a file takes.
EXAMPLE_SIZE = (160, 224)


class DenseLayers(nn.Module):
    """Backbone, neck and a dense head: an RPN or a one-stage detector's head.

    The outputs are the feature maps of the neck, then those of the head.
    """

    def __init__(self, detector: BaseDetector, head: BaseModule):
        super().__init__()
        self.detector = detector
        self.head = head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = self.detector.extract_feat(image)
        outs: list[Tensor] = []
        for out in self.head(maps):
            outs.extend([out] if isinstance(out, Tensor) else out)
        return (*maps, *outs)


def to_onnx(
    module: nn.Module, example: Tensor, name: str, dynamic: Sequence[int]
) -> 'onnx.ModelProto':
    """Convert a module of one input to ONNX.

    A graph step for feature maps of any size becomes one operator, which
    :data:`.graph_steps.STEPS` implements.

    Args:
        module (nn.Module): The module, in eval mode.
        example (Tensor): An input to trace with.
        name (str): What the module is, for the graph's name and error messages.
        dynamic (Sequence[int]): Axes of the input that may have any size.

    Raises:
        UserError: If PyTorch's exporter cannot convert it, or onnxscript is missing.
    """
    require('onnxscript', 'onnx')
    try:
        with torch.no_grad(), quiet(), symbolic_graph_steps():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=({i: torch.export.Dim.DYNAMIC for i in dynamic},),
                input_names=['input'],
                verbose=False,
            )
    except Exception as error:
        reason = str(error.__cause__ or error).strip()
        raise UserError(
            f"PyTorch's exporter (torch {torch.__version__}) cannot write the "
            f'{name} of this model in ONNX: {reason or repr(error)}'
        ) from error
    if program is None:
        raise UserError(f"PyTorch's exporter wrote nothing for the {name}.")
    model = program.model_proto
    model.graph.name = name
    return model


def start_detector(
    detector: BaseDetector, head: BaseModule
) -> tuple[Graph, Value, list[Value], list[Value]]:
    """Start a detector's graph with its inputs, backbone, neck and dense head.

    Args:
        detector (BaseDetector): The detector, in eval mode.
        head (BaseModule): Its RPN or its one-stage head.

    Returns:
        tuple[Graph, Value, list[Value], list[Value]]: The graph, its input ``size``
        (height and width before padding), the neck's feature maps, and the head's
        outputs, level by level for each kind.
    """
    g = Graph()
    image = g.input('image', 'float32', [1, 3, 'height', 'width'])
    size = g.input('size', 'int64', [2])
    example = torch.rand(1, 3, *EXAMPLE_SIZE)
    layers = to_onnx(DenseLayers(detector, head), example, 'layers', [2, 3])
    outs = g.inline(layers, image, functions=STEPS)
    levels = head.prior_generator.num_levels
    return g, size, outs[:levels], outs[levels:]


def finish_detector(
    g: Graph, boxes: Value, labels: Value, scores: Value, masks: Value | None = None
) -> 'onnx.ModelProto':
    """Build the model, with the outputs that docs/export.md, "The file", describes."""
    outputs: dict[str, tuple[Value, str, list[int | str]]] = {
        'boxes': (boxes, 'float32', ['n', 4]),
        'labels': (labels, 'int64', ['n']),
        'scores': (scores, 'float32', ['n']),
    }
    if masks is not None:
        outputs['masks'] = (masks, 'float32', ['n', 'mask_height', 'mask_width'])
    return g.model(outputs)
