"""Graph steps of the sibling backbones in ONNX, for feature maps of any size.

``mobilevig_det.ops`` has the definitions. PyTorch's exporter writes each as one node,
which :meth:`.graph.Graph.inline` replaces by these functions.
"""

from .graph import FLOAT, Graph, Value

END = 2**63 - 1
AXES = (2, 3)
# Shifts of the gated links. One that exceeds the side gives zero, which never wins the
# maximum. Enough for feature maps of 4096 pixels a side.
POWERS = [2**i for i in range(1, 12)]


def cross_max(g: Graph, x: Value, stride: int) -> Value:
    """``ops.cross_max``, the graph step of MobileViGv2."""
    best = x
    for axis in AXES:
        best = g.Max(best, *(_shifted(g, x, [n], axis) for n in (stride, -stride)))
    return best - x


def thresholded_max(g: Graph, x: Value, stride: int) -> Value:
    """``ops.thresholded_max``, the graph step of GreedyViG."""
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
    """``ops.gated_max``, the graph step of AdaptViG.

    A gated link of length K changes nothing: the link of that length without a gate
    is at least as strong.
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
    """Roll ``x`` along an axis: two slices, concatenated.

    For a shift that exceeds the side, one slice has everything and the other one is
    empty, so that nothing moves.
    """
    cut = g.Neg(shift)
    last, first = g.Slice(x, cut, [END], [axis]), g.Slice(x, [0], cut, [axis])
    return g.Concat(last, first, axis=axis)


def _distance(g: Graph, x: Value, other: Value) -> Value:
    """Compute the L1 distance over the channels, (B, 1, H, W)."""
    return g.ReduceSum(g.Abs(x - other), [1])


def _threshold(g: Graph, x: Value) -> Value:
    """``ops.dagc.threshold``: mean minus standard deviation, (B, 1, 1, 1)."""
    other, pixels = x, [1]
    for axis in AXES:
        side = _side(g, x, axis)
        # Half of it, rounded up.
        other = _shifted(g, other, side - g.Div(side, [2]), axis)
        pixels = g.Mul(pixels, side)
    distance = _distance(g, x, other)
    mean = g.ReduceMean(distance, AXES)
    squares = g.ReduceSum(g.Pow(distance - mean, 2.0), AXES)
    return mean - g.Sqrt(squares / (g.Cast(pixels, to=FLOAT) - 1.0))


STEPS = {step.__name__: step for step in (cross_max, thresholded_max, gated_max)}
