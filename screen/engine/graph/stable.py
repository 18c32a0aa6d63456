"""Replace operators whose kernels round a row differently at different positions of a batch.

In: a node of the exported graph, or its copy in the head. Out: nodes with the same output, up to rounding, in which the
last bit of a row does not depend on the other rows. Three cases were measured for onnxruntime's CPU kernels, each on
one thread (see tests/assumptions):

- A vectorized function computes the last elements of a buffer one by one, with another rounding. The rewritten nodes
  append elements to the input, so that vectors cover all elements of the rows, and remove them from the output.
- The sum of adjacent elements is divided into vectors at aligned addresses, so it depends on the address of the row.
  onnxruntime may also move a transpose behind a reduction, which makes the reduced elements adjacent. The rewritten
  nodes use GlobalAveragePool, which sums the elements of a channel in the same order at every address.
- A product with one column is computed by another kernel, in which the order of summation depends on the number of
  rows. The rewritten nodes compute two columns. A product with a weight as right factor is not affected, because
  onnxruntime packs weights.

Functions and sums whose rows fill whole vectors are not rewritten: their vectors never cross the border of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from screen.engine.graph.builder import PREFIX, GraphBuilder
from screen.engine.graph.sizes import TensorSizes

VECTORIZED = ("Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "Log", "Mish", "Selu", "Sin", "Softplus")
"""Functions whose kernels compute the last elements of a buffer with another rounding."""

_REDUCTIONS = ("ReduceMean", "ReduceSum")

_LANES = 4
"""Number of float32 elements of a vector in these kernels (128 bits, on every processor)."""

_PADDING = 16
"""Number of elements that are appended to the input of a vectorized function, at least `_LANES` - 1."""


class RowStability:
    """Rewrites nodes of one exported graph.

    Args:
        exported: the exported graph, with its weights.
        sizes: shapes and types of its values.
    """

    def __init__(self, exported: onnx.GraphProto, sizes: TensorSizes) -> None:
        self._sizes = sizes
        constants = {value.name: value for value in exported.initializer}
        constants |= {node.output[0]: node.attribute[0].t for node in exported.node if node.op_type == "Constant"}
        self._integers = {
            name: numpy_helper.to_array(value).reshape(-1).tolist()
            for name, value in constants.items()
            if value.data_type == TensorProto.INT64
        }

    def rewrite(self, node: onnx.NodeProto, exported: onnx.NodeProto | None = None) -> list[onnx.NodeProto]:
        """The nodes that replace a node; the node itself if the result of a row does not depend on its position.

        Args:
            node: a node, whose inputs and output may have other names and other numbers of rows than in the exported
                graph.
            exported: the node of the exported graph that `node` copies; None if `node` is itself in the exported graph.
        """
        exported = exported or node
        if node.domain not in ("", "ai.onnx") or self._sizes.types.get(exported.output[0]) != TensorProto.FLOAT:
            return [node]
        if node.op_type in VECTORIZED:
            return [node] if self._is_aligned(exported.output[0]) else _pad_buffer(node)
        if node.op_type in _REDUCTIONS:
            return self._rewrite_reduction(node, exported)
        if node.op_type in ("MatMul", "Gemm") and self._has_one_dynamic_column(exported):
            return pad_column(node)
        return [node]

    def copy(self, builder: GraphBuilder, node: onnx.NodeProto, inputs: Iterator[str], output: str = "") -> str:
        """Append a copy of a node, changed by `rewrite`, to a head, and return the name of the copy's output.

        Args:
            builder: collects the nodes of the head.
            node: a node of the exported graph.
            inputs: names of the copy's inputs.
            output: name of the copy's output; "" for the name of the node's output.
        """
        name = builder.add_copy(node, inputs, output)
        builder.nodes[-1:] = self.rewrite(builder.nodes[-1], node)
        return name

    def _rewrite_reduction(self, node: onnx.NodeProto, exported: onnx.NodeProto) -> list[onnx.NodeProto]:
        shape = self._sizes.shapes.get(exported.input[0], ())
        axes = self._integers.get(exported.input[1]) if len(exported.input) > 1 else None
        if not self._sizes.has_row_axis(exported.input[0]) or not axes or 0 in shape:
            return [node]
        reduced = sorted(axis % len(shape) for axis in axes)
        if 0 in reduced or self._is_aligned(exported.input[0]):
            return [node]
        kept = [axis for axis in range(1, len(shape)) if axis not in reduced]
        order = [0, *kept, *reduced]
        terms = math.prod(shape[axis] for axis in reduced)
        nodes = _Nodes(node.output[0])
        value = node.input[0]
        if order != sorted(order):
            value = nodes.add("Transpose", [value], perm=order)
        value = nodes.add("Reshape", [value, nodes.constant([0, math.prod(shape[axis] for axis in kept), terms])])
        value = nodes.add("GlobalAveragePool", [value])
        if node.op_type == "ReduceSum":
            value = nodes.add("Mul", [value, nodes.constant(terms, np.float32)])
        keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        target = [1 if axis in reduced else shape[axis] for axis in range(1, len(shape)) if keeps or axis in kept]
        nodes.add("Reshape", [value, nodes.constant([0, *target])], node.output[0])
        return nodes.nodes

    def _is_aligned(self, name: str) -> bool:
        """Whether each row of a value fills whole vectors."""
        shape = self._sizes.shapes.get(name, ())
        return self._sizes.has_row_axis(name) and 0 not in shape and math.prod(shape[1:]) % _LANES == 0

    def _has_one_dynamic_column(self, node: onnx.NodeProto) -> bool:
        """Whether the right factor of a product has one column, and is not a weight."""
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            return False
        shape = self._sizes.shapes.get(node.input[1], ())
        return len(shape) > 1 and shape[-1] == 1 and node.input[1] not in self._sizes.initializers


def pad_column(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A product with one column as a product with two equal columns, of which the first is the output."""
    nodes = _Nodes(node.output[0])
    twice = nodes.add("Concat", [node.input[1], node.input[1]], axis=-1)
    product = nodes.copy(node, {1: twice})
    nodes.add("Slice", [product, *(nodes.constant([number]) for number in (0, 1, -1))], node.output[0])
    return nodes.nodes


def _pad_buffer(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that compute an elementwise function with `_PADDING` appended elements, and remove their results."""
    nodes = _Nodes(node.output[0])
    data = node.input[0]
    flat = nodes.add("Reshape", [data, nodes.constant([-1])])
    padding = nodes.constant(np.full(_PADDING, 0.5), np.float32)  # all functions are defined at 0.5
    padded = nodes.add("Concat", [flat, padding], axis=0)
    values = nodes.copy(node, {0: padded})
    cut = nodes.add("Slice", [values, nodes.constant([0]), nodes.constant([-_PADDING])])
    nodes.add("Reshape", [cut, nodes.add("Shape", [data])], node.output[0])
    return nodes.nodes


class _Nodes:
    """Collects the nodes that replace a node, under names that contain the name of the replaced node's output."""

    def __init__(self, output: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = f"{output.removeprefix(PREFIX)}/stable"

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        name = f"{PREFIX}{self._prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def constant(self, values: object, dtype: type = np.int64) -> str:
        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(values, dtype)))

    def copy(self, node: onnx.NodeProto, inputs: Mapping[int, str]) -> str:
        """Append a copy of the node with other names for some inputs and the output, and return the output's name."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in inputs.items():
            copy.input[index] = name
        copy.name = copy.output[0] = f"{PREFIX}{self._prefix}_{len(self.nodes)}"
        self.nodes.append(copy)
        return str(copy.output[0])
