"""Build ONNX nodes with unique names, shared constants, and the pass axis folded into the batch axis.

In: operators and constants of the head and its reductions. Out: nodes and initializers of a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

PREFIX = "oodscreen/"


class GraphBuilder:
    """Collects the nodes of a head graph.

    Unless a method's docstring gives other shapes, the pass axis of a value is folded into its batch axis:
    `[P * B, ...]`, with the rows of one pass adjacent.

    Args:
        count_passes_of: name of a graph input whose first axis is P.
    """

    def __init__(self, count_passes_of: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._count = 0
        self.passes = self.add("Shape", [count_passes_of], start=0, end=1)
        """Name of the value P, `[1]`."""

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Append a node with one output, and return the output's name."""
        self._count += 1
        output = output or f"{PREFIX}{op_type.lower()}_{self._count}"
        name = f"{PREFIX}{op_type}_{self._count}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def add_copy(self, node: onnx.NodeProto, inputs: Iterator[str], output: str = "") -> str:
        """Append a copy of a node with other inputs, and return the name of the copy's output: `output` if given."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(list(inputs)):
            copy.input[index] = name
        if output:
            self._count += 1
            copy.name = f"{PREFIX}{node.op_type}_{self._count}"
            copy.output[0] = output
        self.nodes.append(copy)
        return str(copy.output[0])

    def unique_name(self, stem: str) -> str:
        """A new value name that contains `stem`."""
        self._count += 1
        return f"{PREFIX}{stem}_{self._count}"

    def constant(self, values: object, dtype: type = np.int64) -> str:
        """Name of a constant with these values; equal constants share one initializer."""
        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._names:
            self._names[key] = f"{PREFIX}constant_{len(self._names)}"
            self.constants.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def unfold(self, folded: str) -> str:
        """Reshape `[P * B, ...]` to `[P, B, ...]`."""
        tail = self.add("Shape", [folded], start=1)
        shape = self.add("Concat", [self.passes, self.constant([-1]), tail], axis=0)
        return self.add("Reshape", [folded, shape])

    def fold(self, unfolded: str, output: str = "") -> str:
        """Reshape `[P, B, ...]` to `[P * B, ...]`."""
        tail = self.add("Shape", [unfolded], start=2)
        shape = self.add("Concat", [self.constant([-1]), tail], axis=0)
        return self.add("Reshape", [unfolded, shape], output)

    def repeat(self, rows: str) -> str:
        """Repeat `[B, ...]` to `[P * B, ...]`: the same rows for every pass."""
        single = self.add("Unsqueeze", [rows, self.constant([0])])
        ones = self.add("Expand", [self.constant([1]), self.add("Shape", [self.add("Shape", [rows])])])
        target = self.add("Concat", [self.passes, ones], axis=0)
        return self.fold(self.add("Expand", [single, target]))
