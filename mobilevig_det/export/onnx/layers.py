"""Conversion of a detector's layers to ONNX by PyTorch's exporter.

The exporter writes each graph step of a backbone (defined in ``mobilevig_det.ops``) as
one node, which :meth:`.graph.Graph.inline` replaces by a function of :data:`STEPS`, so
that feature maps may have any size.
"""

from collections.abc import Sequence

import onnx
import torch
from mmdet.models import BaseDetector
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...custom_op import symbolic_graph_steps
from ...errors import UserError
from ..runtimes import quiet
from .graph import FLOAT, OPSET, Graph, Value

# Image size for tracing. Exported files accept other sizes as well.
EXAMPLE_SIZE = (160, 224)
END = 2**63 - 1
AXES = (2, 3)
# Shifts of the gated links, for feature maps of up to 4096 pixels per side. A shift
# that exceeds the side gives zero, which does not change the maximum.
POWERS = [2**i for i in range(1, 12)]


class DenseLayers(nn.Module):
    """Backbone, neck and dense head (an RPN or the head of a one-stage detector).

    Args:
        detector (BaseDetector): The detector, in eval mode.
        head (BaseModule): Its dense head.
    """

    def __init__(self, detector: BaseDetector, head: BaseModule):
        super().__init__()
        self.detector = detector
        self.head = head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of the neck, followed by the outputs of the head.

        Args:
            image (Tensor): Normalised and padded images of shape (B, 3, H, W).
        """
        maps = self.detector.extract_feat(image)
        outs: list[Tensor] = []
        for out in self.head(maps):
            outs.extend([out] if isinstance(out, Tensor) else out)
        return (*maps, *outs)


def to_onnx(
    module: nn.Module, example: Tensor, name: str, dynamic: Sequence[int]
) -> onnx.ModelProto:
    """Convert a module with one input to ONNX.

    A graph step for feature maps of any size becomes one operator of :data:`STEPS`.

    Args:
        module (nn.Module): The module, in eval mode.
        example (Tensor): An input to trace with.
        name (str): The name of the graph, which is used in error messages as well.
        dynamic (Sequence[int]): Axes of the input that may have any size.

    Raises:
        UserError: If PyTorch's exporter cannot convert it.
    """
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
) -> onnx.ModelProto:
    """Build the model of a detector; see docs/export.md, "The file".

    Args:
        g (Graph): The graph of :func:`start_detector`.
        boxes (Value): float32 of shape (n, 4).
        labels (Value): int64 of shape (n,).
        scores (Value): float32 of shape (n,).
        masks (Value, optional): float32 of shape (n, h, w). Defaults to None.
    """
    outputs: dict[str, tuple[Value, str, list[int | str]]] = {
        'boxes': (boxes, 'float32', ['n', 4]),
        'labels': (labels, 'int64', ['n']),
        'scores': (scores, 'float32', ['n']),
    }
    if masks is not None:
        outputs['masks'] = (masks, 'float32', ['n', 'mask_height', 'mask_width'])
    return g.model(outputs)


def cross_max(g: Graph, x: Value, stride: int) -> Value:
    """Append ``ops.cross_max``, the graph step of MobileViGv2."""
    best = x
    for axis in AXES:
        best = g.Max(best, *(_shifted(g, x, [n], axis) for n in (stride, -stride)))
    return best - x


def thresholded_max(g: Graph, x: Value, stride: int) -> Value:
    """Append ``ops.thresholded_max``, the graph step of GreedyViG."""
    limit, best = _threshold(g, x), x - x
    for axis in AXES:

        def admit(number: Value, best: Value, axis: int = axis) -> Value:
            other = _shifted(g, x, (number + [1]) * [stride], axis)
            admitted = g.Less(_distance(g, x, other), limit)
            return g.Max(best, g.Where(admitted, other - x, 0.0))

        links = g.Div(_side(g, x, axis) - [1], [stride])
        best = g.loop(links, admit, best)
    return best


def gated_max(g: Graph, x: Value, temperature: Value, stride: int) -> Value:
    """Append ``ops.gated_max``, the graph step of AdaptViG.

    The gated link of length K may be included, because it never exceeds the link of
    that length without a gate.
    """
    scale = g.Abs(temperature) + 1e-6
    best = g.Max(x, *(_shifted(g, x, [stride], axis) for axis in AXES)) - x
    for axis in AXES:
        for shift in POWERS:
            other = _shifted(g, x, [shift], axis)
            opening = g.Exp(g.Neg(_distance(g, x, other) / scale))
            best = g.Max(best, opening * (other - x))
    return best


def _side(g: Graph, x: Value, axis: int) -> Value:
    return g.Shape(x, start=axis, end=axis + 1)


def _shifted(g: Graph, x: Value, shift, axis: int) -> Value:
    """Roll ``x`` along an axis by concatenating two slices.

    If the shift exceeds the side, one slice is empty and ``x`` is unchanged.
    """
    cut = g.Neg(shift)
    last, first = g.Slice(x, cut, [END], [axis]), g.Slice(x, [0], cut, [axis])
    return g.Concat(last, first, axis=axis)


def _distance(g: Graph, x: Value, other: Value) -> Value:
    """Return the L1 distance over the channels, shape (B, 1, H, W)."""
    return g.ReduceSum(g.Abs(x - other), [1])


def _threshold(g: Graph, x: Value) -> Value:
    """Return ``ops.dagc.threshold``: mean minus standard deviation, (B, 1, 1, 1)."""
    other, pixels = x, [1]
    for axis in AXES:
        side = _side(g, x, axis)
        # Shift by half of the side, rounded up.
        other = _shifted(g, other, side - g.Div(side, [2]), axis)
        pixels = g.Mul(pixels, side)
    distance = _distance(g, x, other)
    mean = g.ReduceMean(distance, AXES)
    squares = g.ReduceSum(g.Pow(distance - mean, 2.0), AXES)
    return mean - g.Sqrt(squares / (g.Cast(pixels, to=FLOAT) - 1.0))


STEPS = {step.__name__: step for step in (cross_max, thresholded_max, gated_max)}
