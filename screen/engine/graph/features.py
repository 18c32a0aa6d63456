"""Choose the trunk tensor that serves as features, and pool it to a short vector.

In: the split of a graph and its sizes. Out: a `FeaturePlan`, a pure value, and the nodes that compute the features
inside the trunk, at negligible cost.

A tensor with spatial axes (height and width, or tokens) is averaged over a small grid of spatial cells, for each
channel. The operators that produce the tensor determine its channel axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from screen.engine.graph.builder import PREFIX
from screen.engine.graph.sizes import TensorSizes, count_flops
from screen.engine.graph.split import GraphSplit

FEATURES = PREFIX + "features"

GRID = 3
"""Number of spatial cells along each axis. A single cell discards all positions; with many cells, a small shift of the
image gives a large distance (measured in benchmarks/detection.py)."""

FEATURES_MAX = 4096
"""Number of features above which the grid is made coarser, down to a single cell. A flat tensor is not reduced."""

_CHANNELS_SECOND = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "LRN",
        "DepthToSpace",
        "SpaceToDepth",
    ]
)
"""Operators whose output has its channels on axis 1 by ONNX's definition."""

_MAX_POOLED_AXES = 3
"""Maximum number of spatial axes that onnxruntime's pooling supports."""

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class FeaturePlan:
    """The trunk tensor that serves as features, and its pooling.

    Attributes:
        tensor: name of the tensor; "" if there are no features.
        shape: shape of one row of the tensor.
        channels: channel axis of a row; None for a flat tensor.
        grid: number of spatial cells along each spatial axis.
        why: reason for the choice of the tensor, or for the absence of features.
    """

    tensor: str
    shape: tuple[int, ...]
    channels: int | None
    grid: tuple[int, ...]
    why: str

    @property
    def size(self) -> int:
        """F, the number of features; 0 if there are none."""
        if not self.tensor:
            return 0
        return self.shape[0] if self.channels is None else self.shape[self.channels] * math.prod(self.grid)

    def describe(self) -> str:
        """Description in one line, for `oodscreen inspect` and calibrations."""
        if not self.tensor:
            return f"none: {self.why}"
        cells = " x ".join(map(str, self.grid))
        pooling = "not pooled" if self.channels is None else f"averaged over {cells} spatial cells"
        return f"{self.tensor} {list(self.shape)}, {pooling}: {self.size} features ({self.why})"


def plan_features(split: GraphSplit, sizes: TensorSizes, grid: int = GRID) -> FeaturePlan:
    """Choose the boundary tensor with the most arithmetic before it, and its pooling.

    Args:
        split: trunk, head and boundary of the graph.
        sizes: shapes of the graph's values.
        grid: number of spatial cells along each spatial axis; a shorter axis is not pooled.
    """
    producer = {name: node for node in split.trunk for name in node.output}
    candidates = [
        (count_flops(_ancestors(name, producer, split.trunk), sizes), name)
        for name in split.boundary
        if sizes.types.get(name) == TensorProto.FLOAT and sizes.has_row_axis(name) and 0 not in sizes.shapes[name]
    ]
    flops, tensor = max(candidates, key=lambda candidate: candidate[0], default=(0, ""))
    if not flops:
        return FeaturePlan("", (), None, (), "no learned layer precedes the first dropout")
    why = "the boundary" if len(split.boundary) == 1 else f"the deepest of {len(split.boundary)} boundary tensors"
    if len(sizes.shapes[tensor]) == 2:
        before = _before_flattening(tensor, producer, sizes)
        if before != tensor:
            tensor, why = before, f"{why}, before it is flattened"
    shape = sizes.shapes[tensor][1:]
    if len(shape) == 1:
        return FeaturePlan(tensor, shape, None, (), f"{why}, which is flat")
    axis = _channel_axis(tensor, producer, sizes)
    if axis is None:
        axis = len(shape)
        why += "; the operators do not determine the channel axis, so it is the last one, as in Keras"
    channels = axis - 1
    spatial = [size for index, size in enumerate(shape) if index != channels]
    cells = grid
    while cells > 1 and shape[channels] * math.prod(min(cells, size) for size in spatial) > FEATURES_MAX:
        cells -= 1
    return FeaturePlan(tensor, shape, channels, tuple(min(cells, size) for size in spatial), why)


def add_features(trunk: onnx.GraphProto, plan: FeaturePlan) -> None:
    """Add the output `FEATURES`, `float32 [B, F]`, to a trunk graph.

    `AveragePool` computes the means over the spatial cells if the channels come first, the cells tile the spatial axes
    and there are at most three of these axes; otherwise, a product with a constant matrix computes them.
    """
    nodes, constants = _feature_nodes(plan)
    trunk.node.extend(nodes)
    trunk.initializer.extend(constants)
    trunk.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["B", plan.size]))


def _feature_nodes(plan: FeaturePlan) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        constants.append(numpy_helper.from_array(values, f"{FEATURES}_constant_{name}"))
        return constants[-1].name

    def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}", **attributes))
        return output

    nodes: list[onnx.NodeProto] = []
    if plan.channels is None:
        node("Identity", [plan.tensor], FEATURES)
        return nodes, constants
    spatial = [size for index, size in enumerate(plan.shape) if index != plan.channels]
    value = plan.tensor
    if plan.channels not in (0, len(plan.shape) - 1):
        others = [index + 1 for index in range(len(plan.shape)) if index != plan.channels]
        value = node("Transpose", [value], f"{FEATURES}_moved", perm=[0, *others, plan.channels + 1])
    channels_first = plan.channels == 0
    tiled = all(size % cells == 0 for size, cells in zip(spatial, plan.grid, strict=True))
    if channels_first and tiled and len(spatial) <= _MAX_POOLED_AXES:
        cell = [size // cells for size, cells in zip(spatial, plan.grid, strict=True)]
        means = node("AveragePool", [value], f"{FEATURES}_means", kernel_shape=cell, strides=cell)
    else:
        pooling = reduce(np.kron, [cell_weights(size, cells) for size, cells in zip(spatial, plan.grid, strict=True)])
        flat = [0, plan.shape[0], -1] if channels_first else [0, -1, plan.shape[plan.channels]]
        rows = node("Reshape", [value, constant("rows", np.array(flat, np.int64))], f"{FEATURES}_rows")
        if channels_first:
            means = node("MatMul", [rows, constant("cells", np.ascontiguousarray(pooling.T))], f"{FEATURES}_means")
        else:
            means = node("MatMul", [constant("cells", pooling), rows], f"{FEATURES}_means")
    node("Reshape", [means, constant("flat", np.array([0, plan.size], np.int64))], FEATURES)
    return nodes, constants


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


def _ancestors(name: str, producer: dict[str, onnx.NodeProto], trunk: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The trunk's nodes that a value depends on, in order."""
    wanted, todo = {name}, [name]
    while todo:
        node = producer.get(todo.pop())
        new = [] if node is None else [read for read in node.input if read not in wanted]
        wanted.update(new)
        todo += new
    return [node for node in trunk if wanted.intersection(node.output)]


def _before_flattening(tensor: str, producer: dict[str, onnx.NodeProto], sizes: TensorSizes) -> str:
    """The tensor with spatial axes of which `tensor` is the flattened form; `tensor` itself if there is none."""
    name = tensor
    while name in producer and producer[name].op_type in _SHAPE_ONLY:
        name = producer[name].input[0]
        shape = sizes.shapes.get(name, ())
        if not sizes.has_row_axis(name) or math.prod(shape) != math.prod(sizes.shapes[tensor]):
            return tensor
        if sum(size > 1 for size in shape[1:]) > 1:
            return name
    return tensor


def _channel_axis(tensor: str, producer: dict[str, onnx.NodeProto], sizes: TensorSizes) -> int | None:
    """The channel axis of a tensor with rows on axis 0; None if the operators do not determine it."""
    transposes: list[Sequence[int]] = []
    name, axis = tensor, None
    while name in producer and axis is None:
        node = producer[name]
        if node.op_type in _CHANNELS_SECOND:
            axis = 1
        elif node.op_type == "MatMul":
            axis = len(sizes.shapes[name]) - 1
        elif node.op_type == "Transpose":
            transposes.append(next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"))
            name = node.input[0]
        else:
            shape = sizes.shapes.get(name, ())
            alike = [read for read in node.input if sizes.shapes.get(read) == shape and read not in sizes.initializers]
            if not alike and node.op_type in ("Concat", "Pad", "Slice"):
                alike = [read for read in node.input if len(sizes.shapes.get(read, ())) == len(shape) > 0]
            if not alike or node.op_type in _SHAPE_ONLY[:2]:
                return None
            name = alike[0]
    for permutation in reversed(transposes):
        axis = None if axis is None else list(permutation).index(axis)
    return axis
