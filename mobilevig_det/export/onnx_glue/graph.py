"""An ONNX graph that is written like a program."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OPSET = 20


class Value:
    """A tensor of a graph: the output of one of its nodes, an input or a constant."""

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
    """Collects nodes: ``graph.Add(a, b)`` appends an ``Add`` and returns its output.

    Every standard operator is such a method; keywords are the node's
    attributes, and ``outputs=2`` makes it return a tuple. Numbers and arrays
    among the inputs become constants, Python's of float32 and int64.
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
        from onnx import helper

        names = [self._new_name(op_type) for _ in range(outputs)]
        self._nodes.append(
            helper.make_node(
                op_type,
                [self.value(x).name for x in inputs],
                names,
                name=f'glue/{names[0]}',
                **attributes,
            )
        )
        values = tuple(Value(self, name) for name in names)
        return values if outputs > 1 else values[0]

    def _new_name(self, stem: str) -> str:
        self._names += 1
        return f'{stem}_{self._names}'

    def value(self, x) -> Value:
        """What stands for ``x``: itself, or a constant."""
        from onnx import numpy_helper

        if isinstance(x, Value):
            return x
        array = np.asarray(x)
        if not isinstance(x, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == 'f' else np.int64)
        name = self._new_name('constant')
        self._initializers.append(numpy_helper.from_array(array, name))
        return Value(self, name)

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Value:
        """Add an input; a string in the shape names a side of any size."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(self, name)

    def call(self, model: 'onnx.ModelProto', *inputs: Value) -> list[Value]:
        """Copy the nodes and weights of a model into this graph.

        Returns:
            list[Value]: Its outputs.
        """
        from onnx import compose

        prefix = self._new_name(model.graph.name or 'part') + '/'
        graph = compose.add_prefix_graph(model.graph, prefix)
        given = {theirs.name: ours.name for theirs, ours in zip(graph.input, inputs)}
        for node in graph.node:
            node.input[:] = [given.get(name, name) for name in node.input]
        self._nodes.extend(graph.node)
        self._initializers.extend(graph.initializer)
        return [Value(self, output.name) for output in graph.output]

    def model(self, outputs: Mapping[str, tuple[Value, str, Sequence[int | str]]]):
        """The finished model.

        Args:
            outputs (dict): Name -> value, dtype and shape.

        Returns:
            onnx.ModelProto: Of the oldest format that has the opset.
        """
        from onnx import helper

        infos = []
        # Renamed, not copied: OpenVINO would know a copy by both names.
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
