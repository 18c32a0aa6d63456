"""Select and join rows of tensors on a device.

In: boundary tensors on the device. Out: boundary tensors of other rows, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession
from screen.engine.graph.trunk import BoundaryTensor


class DeviceRows:
    """Selects and joins rows of boundary tensors on the device, so that no tensor is copied to the host.

    Two small graphs select and join the rows. Their sessions open on first use, because only early exit needs them.

    Args:
        boundary: the boundary tensors.
        device: device of the sessions.
    """

    def __init__(self, boundary: Sequence[BoundaryTensor], device: Device) -> None:
        self._boundary, self._device = tuple(boundary), device

    @cached_property
    def _gather(self) -> GraphSession:
        return GraphSession(_gather_rows(self._boundary), self._device)

    @cached_property
    def _concat(self) -> GraphSession:
        return GraphSession(_concat_rows(self._boundary), self._device)

    def take(self, tensors: Mapping[str, Any], positions: NDArray[np.int64]) -> dict[str, Any]:
        """Copies of the rows at the given positions, on the device.

        Args:
            tensors: the boundary tensors, by name.
            positions: positions of the rows, `int64 [B]`.
        """
        inputs = {f"{_FIRST}{one.name}": tensors[one.name] for one in self._boundary}
        inputs[_POSITIONS] = self._gather.put(positions.astype(np.int64, copy=False))
        return self._named(self._gather.run(inputs))

    def join(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows of n parts, joined two by two, so that a row is copied about log2(n) times.

        Args:
            parts: the boundary tensors of each part, by name; at least one part.
        """
        own = [dict(part) for part in parts]
        while len(own) > 1:
            pairs = [self._join_two(*own[i : i + 2]) for i in range(0, len(own) - 1, 2)]
            own = pairs + (own[-1:] if len(own) % 2 else [])
        return own[0]

    def _join_two(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {f"{_FIRST}{one.name}": first[one.name] for one in self._boundary}
        inputs |= {f"{_SECOND}{one.name}": second[one.name] for one in self._boundary}
        return self._named(self._concat.run(inputs))

    def _named(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        return {one.name: outputs[one.name] for one in self._boundary}


_FIRST, _SECOND, _POSITIONS = "first/", "second/", "positions"
"""Input names of the graphs of `DeviceRows`: two prefixes for boundary tensors, and the name of the row positions."""


def _gather_rows(boundary: Sequence[BoundaryTensor]) -> onnx.ModelProto:
    """A graph that selects rows of each boundary tensor."""
    positions = helper.make_tensor_value_info(_POSITIONS, onnx.TensorProto.INT64, ["B"])
    nodes = [
        helper.make_node("Gather", [f"{_FIRST}{one.name}", _POSITIONS], [one.name], one.name, axis=one.row_axis)
        for one in boundary
    ]
    return _make_model(nodes, [positions, *(_value(one, _FIRST) for one in boundary)], boundary)


def _concat_rows(boundary: Sequence[BoundaryTensor]) -> onnx.ModelProto:
    """A graph that joins the rows of two boundaries."""
    nodes = [
        helper.make_node(
            "Concat", [f"{_FIRST}{one.name}", f"{_SECOND}{one.name}"], [one.name], one.name, axis=one.row_axis
        )
        for one in boundary
    ]
    return _make_model(nodes, [_value(one, prefix) for prefix in (_FIRST, _SECOND) for one in boundary], boundary)


def _make_model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], boundary: Sequence[BoundaryTensor]
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "rows", inputs, [_value(one) for one in boundary])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _value(tensor: BoundaryTensor, prefix: str = "") -> onnx.ValueInfoProto:
    """An input or output with the element type and the number of axes of a boundary tensor."""
    return helper.make_tensor_value_info(f"{prefix}{tensor.name}", tensor.type, [None] * (len(tensor.shape) + 1))
