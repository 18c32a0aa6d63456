"""Infer the shapes of a graph's tensors, and count bytes and floating point operations from them.

In: an exported graph. Out: shapes, bytes and floating point operations. The planner finds row axes and plans memory
from these values, and `oodscreen inspect` reports the operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from export.contract.metadata import DOMAIN

PROBE_ROWS = 97
"""Number of rows in shape inference: a prime that is unlikely to be the size of a layer. A first axis of this size is
therefore taken as the row axis."""

_WORKING_SPACE = 1.5
"""Memory of a node with onnxruntime's arena and kernel buffers, relative to the size of its inputs and outputs."""


_LARGE = 1024
"""Maximum number of elements of a float weight whose data are used in shape inference; shapes depend on integers."""


_FLOATS = frozenset([onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE])


@dataclass(frozen=True)
class TensorSizes:
    """Shapes and element types of the graph's values, for a batch of `PROBE_ROWS` rows.

    Attributes:
        shapes: shapes by name, without values whose shape could not be inferred; an unknown axis has size 0.
        types: ONNX element types by name.
        initializers: names of the weights.
    """

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    initializers: frozenset[str]

    def has_row_axis(self, name: str) -> bool:
        """Whether the first axis of this value is the row axis."""
        return self.shapes.get(name, (0,))[:1] == (PROBE_ROWS,)

    def elements(self, name: str) -> float:
        """Number of elements of one row of a value, or of a whole weight; 0 where the shape is unknown."""
        if name not in self.shapes:
            return 0
        elements = math.prod(max(size, 1) for size in self.shapes[name])
        return elements if name in self.initializers else elements / PROBE_ROWS

    def row_bytes(self, names: Iterable[str]) -> float:
        """Bytes of one row of these values in float32, without weights."""
        return sum(4 * self.elements(name) for name in names if name not in self.initializers)


def infer_sizes(model: onnx.ModelProto) -> TensorSizes:
    """Infer the shape of every value; each site is replaced by an identity."""
    plain = _without_large_weights(model)
    for node in plain.graph.node:
        if node.domain == DOMAIN:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    for value in (*plain.graph.input, *plain.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = PROBE_ROWS
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    shapes = {value.name: tuple(value.dims) for value in inferred.graph.initializer}
    types = {value.name: value.data_type for value in inferred.graph.initializer}
    for values in (inferred.graph.value_info, inferred.graph.input, inferred.graph.output):
        for value in values:
            tensor = value.type.tensor_type
            types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return TensorSizes(shapes, types, frozenset(value.name for value in inferred.graph.initializer))


def _without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for shape inference without the data of large float weights, on which no shape depends."""
    graph = model.graph
    weights = [
        onnx.TensorProto(name=weight.name, dims=weight.dims, data_type=weight.data_type)
        if math.prod(weight.dims) > _LARGE and weight.data_type in _FLOATS
        else weight
        for weight in graph.initializer
    ]
    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        graph=onnx.GraphProto(
            name=graph.name, node=graph.node, input=graph.input, output=graph.output, initializer=weights
        ),
    )


def largest_bytes(nodes: Sequence[onnx.NodeProto], sizes: TensorSizes) -> int:
    """Bytes of one row at the largest node: its inputs, outputs and working space."""
    by_node = (sizes.row_bytes([*node.input, *node.output]) for node in nodes)
    return int(_WORKING_SPACE * max(by_node, default=0))


def count_flops(nodes: Sequence[onnx.NodeProto], sizes: TensorSizes) -> int:
    """Floating point operations of matrix products and convolutions for one row."""
    total = 0.0
    for node in nodes:
        if node.op_type in ("MatMul", "Gemm"):
            total += 2 * sizes.elements(node.output[0]) * sizes.shapes.get(node.input[0], (0,))[-1]
        elif node.op_type in ("Conv", "ConvTranspose"):
            total += 2 * sizes.elements(node.output[0]) * math.prod(sizes.shapes.get(node.input[1], (1, 0))[1:])
    return int(total)
