"""Add the nodes that compute a row's features to a trunk graph.

In: a trunk graph, the exported graph and a `FeaturePlan`. Out: the trunk graph with one more output, `FEATURES`.

Sums over positions are matrix products with constant weights: the summation order of onnxruntime's reductions depends
on the row's position in the batch, and that of its products does not.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import DOMAIN
from screen.engine.graph.features.plan import FEATURES, FeaturePlan
from screen.engine.graph.features.tensors import SummarizedTensor
from screen.engine.graph.silent import make_identity
from screen.engine.graph.split import ancestors

_LANES = 8
"""Minimum number of columns of a product that sums over positions; the added columns are zeros. onnxruntime uses
another kernel for a single column, and pads a few columns to this number anyway."""


def add_features(trunk: onnx.GraphProto, exported: onnx.GraphProto, plan: FeaturePlan) -> None:
    """Add the output `FEATURES`, `float32 [B, F]`, to a trunk graph.

    Args:
        trunk: graph of the trunk, to which nodes, weights and an output are added.
        exported: the exported graph; its nodes up to the two tensors are copied if the trunk does not have them.
        plan: the tensors and their summaries.
    """
    _add_deterministic_nodes(trunk, exported, [one.name for one in (plan.early, plan.penultimate) if one.name])
    writer = _SummaryWriter(trunk)
    parts = []
    if plan.early.name:
        parts += writer.summarize(plan.early, "early", deviations=True)
    if plan.penultimate.name:
        parts += writer.summarize(plan.penultimate, "penultimate", deviations=False)
    writer.node("Concat", parts, FEATURES, axis=1)
    trunk.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["B", plan.size]))


def _add_deterministic_nodes(trunk: onnx.GraphProto, exported: onnx.GraphProto, names: list[str]) -> None:
    """Copy the nodes that some values depend on and that the trunk does not have; every site becomes the identity."""
    present = {output for node in trunk.node for output in node.output}
    for node in ancestors(names, exported.node):
        if present.intersection(node.output):
            continue
        copy = trunk.node.add()
        copy.CopyFrom(node)
        if node.domain == DOMAIN:
            make_identity(copy)
    known = {value.name for value in trunk.initializer}
    read = {name for node in trunk.node for name in node.input}
    trunk.initializer.extend(value for value in exported.initializer if value.name in read - known)


class _SummaryWriter:
    """Appends nodes and constants to a graph, under names that begin with `FEATURES`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self._graph.initializer.append(numpy_helper.from_array(values, f"{FEATURES}_constant_{name}"))
        return self._graph.initializer[-1].name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        self._graph.node.append(helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}", **attributes))
        return output

    def summarize(self, tensor: SummarizedTensor, group: str, *, deviations: bool) -> list[str]:
        """Add the summary of a tensor, and return the names of its parts, each `[B, features]`.

        Args:
            tensor: the tensor and its spatial cells.
            group: name of the group, for the names of the nodes.
            deviations: whether each channel's mean and standard deviation follow the cell means.
        """
        if tensor.channels is None:
            return [self._flatten(self.node("Identity", [tensor.name], f"{FEATURES}_{group}"), tensor.cell_means)]
        prefix = f"{FEATURES}_{group}"
        count = tensor.shape[tensor.channels]
        rows = self._channel_rows(tensor, group)
        spatial = [size for index, size in enumerate(tensor.shape) if index != tensor.channels]
        cells = reduce(np.kron, [cell_weights(size, cells) for size, cells in zip(spatial, tensor.grid, strict=True)])
        parts = [self._flatten(self._average(rows, cells, f"{prefix}_cells"), count * len(cells))]
        if deviations:
            even: NDArray[np.float32] = np.full((1, tensor.positions), 1 / tensor.positions, np.float32)
            mean = self._average(rows, even, f"{prefix}_mean")
            centred = self.node("Sub", [rows, mean], f"{prefix}_centred")
            square = self.node("Mul", [centred, centred], f"{prefix}_square")
            variance = self._average(square, even, f"{prefix}_variance")
            deviation = self.node("Sqrt", [variance], f"{prefix}_deviation")
            parts += [self._flatten(mean, count), self._flatten(deviation, count)]
        return parts

    def _average(self, rows: str, weights: NDArray[np.float32], output: str) -> str:
        """Weighted sums over the positions, `[B, C, sums]`, of a value `[B, C, positions]`.

        Args:
            rows: name of the value.
            weights: `[sums, positions]`.
            output: name of the result.
        """
        factor = self.constant(f"{output.removeprefix(FEATURES)}_weights", _columns(weights))
        return self._cut(self.node("MatMul", [rows, factor], f"{output}_padded"), len(weights), output)

    def _channel_rows(self, tensor: SummarizedTensor, group: str) -> str:
        """The tensor as `[B, C, positions]`."""
        assert tensor.channels is not None  # noqa: S101  only flat tensors have no channels
        value = tensor.name
        if tensor.channels != 0:
            others = [index + 1 for index in range(len(tensor.shape)) if index != tensor.channels]
            permutation = [0, tensor.channels + 1, *others]
            value = self.node("Transpose", [value], f"{FEATURES}_{group}_moved", perm=permutation)
        shape = self.constant(f"{group}_rows_shape", np.array([0, tensor.shape[tensor.channels], -1], np.int64))
        return self.node("Reshape", [value, shape], f"{FEATURES}_{group}_rows")

    def _cut(self, padded: str, columns: int, output: str) -> str:
        """The first columns, `[B, C, columns]`, of a value `[B, C, padded columns]`."""
        bounds = [
            self.constant(f"{output.removeprefix(FEATURES)}_{name}", np.array([number], np.int64))
            for name, number in (("start", 0), ("end", columns), ("axis", 2))
        ]
        return self.node("Slice", [padded, *bounds], output)

    def _flatten(self, value: str, size: int) -> str:
        """A value `[B, ...]` with `size` elements per row, reshaped to `[B, size]`."""
        shape = self.constant(f"{value.removeprefix(FEATURES)}_flat_shape", np.array([0, size], np.int64))
        return self.node("Reshape", [value, shape], f"{value}_flat")


def _columns(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights `[columns, positions]` as the right factor of a product, with at least `_LANES` columns."""
    padded: NDArray[np.float32] = np.zeros((weights.shape[1], max(len(weights), _LANES)), np.float32)
    padded[:, : len(weights)] = weights.T
    return padded


def cell_weights(size: int, cells: int) -> NDArray[np.float32]:
    """Averaging weights of the cells along one axis, `[cells, size]`; each row sums to 1.

    Cell i spans floor(i * size / cells) to ceil((i + 1) * size / cells), as in PyTorch's adaptive average pooling;
    cells overlap where `size` is not a multiple of `cells`.
    """
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, start:end] = 1 / (end - start)
    return weights
