"""Builder of ONNX graphs with an interface like a tensor library."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from ..runtimes import BUILT

OPSET = 20
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64  # for Cast


class Value:
    """A tensor of a graph: an input, a constant or the output of a node."""

    def __init__(self, graph: 'Graph', name: str):
        self.graph = graph
        self.name = name

    def __add__(self, other) -> 'Value':
        return self.graph.Add(self, other)

    def __sub__(self, other) -> 'Value':
        return self.graph.Sub(self, other)

    def __mul__(self, other) -> 'Value':
        return self.graph.Mul(self, other)

    def __truediv__(self, other) -> 'Value':
        return self.graph.Div(self, other)

    def __gt__(self, other) -> 'Value':
        return self.graph.Greater(self, other)

    def __and__(self, other) -> 'Value':
        return self.graph.And(self, other)


class Graph:
    """An ONNX graph under construction.

    Every standard operator is a method that appends a node and returns its output, or
    a tuple of outputs with ``outputs=2``. Other keyword arguments are the attributes of
    the node. Numbers and arrays among the inputs become constants: Python numbers have
    the type float32 or int64, arrays keep their type.

    Example:
        >>> g = Graph()
        >>> x = g.input('x', 'float32', [1, 3, 'height', 'width'])
        >>> model = g.model({'y': (g.Relu(x) * 2.0, 'float32', [1, 3, 'h', 'w'])})
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._names = 0

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return functools.partial(self._append, op_type)

    def _append(self, op_type: str, *inputs, outputs: int = 1, **attributes):
        names = [self._new_name(op_type) for _ in range(outputs)]
        self._nodes.append(
            helper.make_node(
                op_type,
                [self.value(x).name for x in inputs],
                names,
                name=BUILT + names[0],
                **attributes,
            )
        )
        values = tuple(Value(self, name) for name in names)
        return values if outputs > 1 else values[0]

    def _new_name(self, stem: str) -> str:
        self._names += 1
        return f'{stem}_{self._names}'

    def value(self, x) -> Value:
        """Return ``x`` if it is a Value, or else a constant with its content."""
        if isinstance(x, Value):
            return x
        array = np.asarray(x)
        if not isinstance(x, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == 'f' else np.int64)
        name = self._new_name('constant')
        self._initializers.append(numpy_helper.from_array(array, name))
        return Value(self, name)

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Value:
        """Add an input; a string in the shape names an axis of any size."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(self, name)

    def loop(
        self, count: Value, body: Callable[[Value, Value], Value], state: Value
    ) -> Value:
        """Append a Loop: ``state = body(i, state)`` for i in range(count).

        Args:
            count (Value): Number of iterations, int64 (1,).
            body (Callable): Function of i, int64 (1,), and the state. It may use
                other values of the graph.
            state (Value): The first state, float32, of four axes.

        Returns:
            Value: The last state.
        """
        number, running, before = (
            Value(self, self._new_name(stem)) for stem in ('number', 'running', 'state')
        )
        outside, self._nodes = self._nodes, []
        after = body(self.Reshape(number, [1]), before)
        infos = [
            helper.make_tensor_value_info(value.name, kind, [None] * axes)
            for value, kind, axes in (
                (number, INT64, 0),
                (running, TensorProto.BOOL, 0),
                (before, FLOAT, 4),
                (self.Identity(running), TensorProto.BOOL, 0),
                (after, FLOAT, 4),
            )
        ]
        inside = helper.make_graph(self._nodes, 'body', infos[:3], infos[3:])
        self._nodes = outside
        return self.Loop(self.Squeeze(count, [0]), np.array(True), state, body=inside)

    def inline(
        self,
        model: onnx.ModelProto,
        *inputs: Value,
        functions: Mapping[str, Callable[..., Value]] | None = None,
    ) -> list[Value]:
        """Copy the nodes and weights of a model into this graph.

        Args:
            model (onnx.ModelProto): The model.
            inputs (Value): Its inputs.
            functions (dict): Implementations of operators that are not part of ONNX,
                by name: functions of this graph, the node's inputs and its attributes.
                The last node that a function appends must compute the output, which is
                named after the operator, with a number.

        Returns:
            list[Value]: The outputs of the model.
        """
        prefix = self._new_name(model.graph.name or 'part') + '/'
        graph = compose.add_prefix_graph(model.graph, prefix)
        given = {theirs.name: ours.name for theirs, ours in zip(graph.input, inputs)}
        for node in graph.node:
            node.input[:] = [given.get(name, name) for name in node.input]
            write = (functions or {}).get(node.op_type)
            if write is None:
                self._nodes.append(node)
                continue
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            write(self, *(Value(self, name) for name in node.input), **attributes)
            given[node.output[0]] = self._new_name(node.op_type)
            self._nodes[-1].output[:] = [given[node.output[0]]]
        self._initializers.extend(graph.initializer)
        return [Value(self, given.get(o.name, o.name)) for o in graph.output]

    def model(self, outputs: Mapping[str, tuple[Value, str, Sequence[int | str]]]):
        """Build the model.

        Args:
            outputs (dict): Value, dtype and shape of each output by name.

        Returns:
            onnx.ModelProto: The model, in the oldest IR version with the opset.
        """
        infos = []
        # Renamed rather than copied, because OpenVINO would give a copy both names.
        names = {value.name: name for name, (value, _, _) in outputs.items()}
        for node in self._nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for name, (_, dtype, shape) in outputs.items():
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            infos.append(helper.make_tensor_value_info(name, kind, shape))
        graph = helper.make_graph(
            self._nodes, 'detector', self._inputs, infos, self._initializers
        )
        opsets = [helper.make_opsetid('', OPSET)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name='mobilevig_det',
        )
