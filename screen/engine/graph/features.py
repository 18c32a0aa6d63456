"""Which tensor of the trunk says what an image looks like, and how it becomes a short vector.

In: the split of a graph and its sizes. Out: a `FeaturePlan`, a value that can be printed, and the
nodes that compute the features within the trunk, where they cost next to nothing.

A tensor with places (height and width, or tokens) is averaged over a small grid of them, for each
channel. Which axis is the channel is found from the operators that made the tensor.
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
"""Cells of the grid along each axis: with one nothing is left of where things are, and with many a
small shift looks far (measured in benchmarks/detection.py)."""

FEATURES_MAX = 4096
"""Features at most; a tensor of many channels gets a coarser grid. A flat tensor is taken as it is."""

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
"""Operators whose output has its channels on axis 1, by ONNX's definition."""

_POOLED_AXES = 3
"""Axes of places that onnxruntime pools at most."""

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class FeaturePlan:
    """Where features come from.

    Attributes:
        tensor: the trunk's value that is read; "" where there are no features.
        shape: of one row of it.
        channels: which axis of a row holds channels; None for a flat tensor.
        grid: cells along each other axis.
        why: what was chosen among what, or why there is nothing to choose.
    """

    tensor: str
    shape: tuple[int, ...]
    channels: int | None
    grid: tuple[int, ...]
    why: str

    @property
    def size(self) -> int:
        """F; 0 where there are no features."""
        if not self.tensor:
            return 0
        return self.shape[0] if self.channels is None else self.shape[self.channels] * math.prod(self.grid)

    def describe(self) -> str:
        """For people: `inspect` and calibrations."""
        if not self.tensor:
            return f"none: {self.why}"
        how = "as it is" if self.channels is None else f"averaged to {' x '.join(map(str, self.grid))} places"
        return f"{self.tensor} {list(self.shape)}, {how}: {self.size} features ({self.why})"


def plan_features(split: GraphSplit, sizes: TensorSizes, grid: int = GRID) -> FeaturePlan:
    """Choose the boundary tensor with the most arithmetic in front of it, and how to shorten it.

    Args:
        split: what belongs to trunk and head.
        sizes: shapes of the graph's values.
        grid: cells along each axis of places, where there are so many.
    """
    maker = {name: node for node in split.trunk for name in node.output}
    weighed = [
        (count_flops(_ancestors(name, maker, split.trunk), sizes), name)
        for name in split.boundary
        if sizes.types.get(name) == TensorProto.FLOAT and sizes.counts_rows(name) and 0 not in sizes.shapes[name]
    ]
    flops, tensor = max(weighed, key=lambda one: one[0], default=(0, ""))
    if not flops:
        return FeaturePlan("", (), None, (), "nothing that was learned lies in front of the first dropout")
    why = "the boundary" if len(split.boundary) == 1 else f"the deepest of {len(split.boundary)} boundary tensors"
    if len(sizes.shapes[tensor]) == 2:
        before = _before_flattening(tensor, maker, sizes)
        if before != tensor:
            tensor, why = before, f"{why}, before it is flattened"
    shape = sizes.shapes[tensor][1:]
    if len(shape) == 1:
        return FeaturePlan(tensor, shape, None, (), f"{why}, which is flat")
    axis = _channel_axis(tensor, maker, sizes)
    if axis is None:
        axis = len(shape)
        why += "; the operators do not tell which axis holds channels, so the last is taken, as Keras has it"
    channels = axis - 1
    places = [size for index, size in enumerate(shape) if index != channels]
    cells = grid
    while cells > 1 and shape[channels] * math.prod(min(cells, size) for size in places) > FEATURES_MAX:
        cells -= 1
    return FeaturePlan(tensor, shape, channels, tuple(min(cells, size) for size in places), why)


def add_features(trunk: onnx.GraphProto, plan: FeaturePlan) -> None:
    """Let a trunk graph give `FEATURES`, `float32 [B, F]`, of the plan's tensor, too.

    The mean over each cell of the grid is a pooling where the cells tile the places, and else a product with a
    constant, the same for every row.
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
    places = [size for index, size in enumerate(plan.shape) if index != plan.channels]
    value = plan.tensor
    if plan.channels not in (0, len(plan.shape) - 1):
        others = [index + 1 for index in range(len(plan.shape)) if index != plan.channels]
        value = node("Transpose", [value], f"{FEATURES}_moved", perm=[0, *others, plan.channels + 1])
    channels_first = plan.channels == 0
    tiled = all(size % cells == 0 for size, cells in zip(places, plan.grid, strict=True))
    if channels_first and tiled and len(places) <= _POOLED_AXES:
        cell = [size // cells for size, cells in zip(places, plan.grid, strict=True)]
        means = node("AveragePool", [value], f"{FEATURES}_means", kernel_shape=cell, strides=cell)
    else:
        pooling = reduce(np.kron, [cell_means(size, cells) for size, cells in zip(places, plan.grid, strict=True)])
        flat = [0, plan.shape[0], -1] if channels_first else [0, -1, plan.shape[plan.channels]]
        rows = node("Reshape", [value, constant("rows", np.array(flat, np.int64))], f"{FEATURES}_rows")
        if channels_first:
            means = node("MatMul", [rows, constant("cells", np.ascontiguousarray(pooling.T))], f"{FEATURES}_means")
        else:
            means = node("MatMul", [constant("cells", pooling), rows], f"{FEATURES}_means")
    node("Reshape", [means, constant("flat", np.array([0, plan.size], np.int64))], FEATURES)
    return nodes, constants


def cell_means(size: int, cells: int) -> NDArray[np.float32]:
    """`[cells, size]`: each row averages one cell; cells overlap where size is no multiple of cells.

    From floor(i * size / cells) to ceil((i + 1) * size / cells), as adaptive average pooling has it.
    """
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, start:end] = 1 / (end - start)
    return weights


def _ancestors(name: str, maker: dict[str, onnx.NodeProto], trunk: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    wanted, todo = {name}, [name]
    while todo:
        node = maker.get(todo.pop())
        new = [] if node is None else [read for read in node.input if read not in wanted]
        wanted.update(new)
        todo += new
    return [node for node in trunk if wanted.intersection(node.output)]


def _before_flattening(tensor: str, maker: dict[str, onnx.NodeProto], sizes: TensorSizes) -> str:
    """The tensor with places that a flat one was made of by changing its shape alone; else the flat one."""
    name = tensor
    while name in maker and maker[name].op_type in _SHAPE_ONLY:
        name = maker[name].input[0]
        shape = sizes.shapes.get(name, ())
        if not sizes.counts_rows(name) or math.prod(shape) != math.prod(sizes.shapes[tensor]):
            return tensor
        if sum(size > 1 for size in shape[1:]) > 1:
            return name
    return tensor


def _channel_axis(tensor: str, maker: dict[str, onnx.NodeProto], sizes: TensorSizes) -> int | None:
    """Which axis holds channels, rows being axis 0; None where the operators do not tell."""
    moves: list[Sequence[int]] = []
    name, axis = tensor, None
    while name in maker and axis is None:
        node = maker[name]
        if node.op_type in _CHANNELS_SECOND:
            axis = 1
        elif node.op_type == "MatMul":
            axis = len(sizes.shapes[name]) - 1
        elif node.op_type == "Transpose":
            moves.append(next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"))
            name = node.input[0]
        else:
            rank = len(sizes.shapes.get(name, ()))
            rest = sizes.shapes.get(name, ())
            alike = [read for read in node.input if sizes.shapes.get(read) == rest and read not in sizes.initializers]
            if not alike and node.op_type in ("Concat", "Pad", "Slice"):
                alike = [read for read in node.input if len(sizes.shapes.get(read, ())) == rank > 0]
            if not alike or node.op_type in _SHAPE_ONLY[:2]:
                return None
            name = alike[0]
    for move in reversed(moves):
        axis = None if axis is None else list(move).index(axis)
    return axis
