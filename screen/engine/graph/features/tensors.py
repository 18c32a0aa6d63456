"""Reduce a tensor of a network to a short vector: find its channel axis, and divide its positions into cells.

In: the name of a tensor in an exported graph. Out: a `SummarizedTensor`, a pure value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from export.contract.metadata import DOMAIN
from screen.engine.graph.sizes import TensorSizes

GRID = 3
"""Number of spatial cells along each axis. A single cell discards all positions; with many cells, a small shift of the
image gives a large distance (measured in benchmarks/choice.py)."""

FEATURES_MAX = 4096
"""Number of features of one tensor above which its grid is made coarser, down to a single cell. A flat tensor is not
reduced."""

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

SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Operators that change no value, only the shape."""


@dataclass(frozen=True)
class SummarizedTensor:
    """A tensor of the deterministic network, and how it is reduced to a short vector.

    Attributes:
        name: name of the tensor; "" if no tensor is suitable.
        shape: shape of one row of the tensor.
        channels: channel axis of a row; None for a flat tensor, whose elements are the features.
        grid: number of spatial cells along each spatial axis.
        why: reason for the choice of the tensor, or for its absence.
    """

    name: str
    shape: tuple[int, ...]
    channels: int | None
    grid: tuple[int, ...]
    why: str

    @property
    def cell_means(self) -> int:
        """Number of cell means, or of elements of a flat tensor; 0 without a tensor."""
        if not self.name:
            return 0
        return math.prod(self.shape) if self.channels is None else self.shape[self.channels] * math.prod(self.grid)

    @property
    def positions(self) -> int:
        """Number of spatial positions; 1 for a flat tensor."""
        return 1 if self.channels is None else math.prod(self.shape) // self.shape[self.channels]

    def describe(self) -> str:
        """The tensor, its spatial cells and the reason for its choice, in one line."""
        if not self.name:
            return f"none: {self.why}"
        cells = " x ".join(map(str, self.grid))
        pooling = "not pooled" if self.channels is None else f"in {cells} spatial cells"
        return f"{self.name} {list(self.shape)}, {pooling} ({self.why})"


def summarize_tensor(
    name: str, why: str, producer: dict[str, onnx.NodeProto], sizes: TensorSizes, images: frozenset[str]
) -> SummarizedTensor:
    """Divide a tensor into spatial cells; a flattened tensor is replaced by the tensor before it was flattened.

    Args:
        name: name of the tensor.
        why: reason for the choice of the tensor.
        producer: the node that computes each value, by the name of the value.
        sizes: shapes of the graph's values.
        images: names of the graph's inputs.
    """
    if len(sizes.shapes[name]) == 2:
        before = _before_flattening(name, producer, sizes)
        if before != name:
            name, why = before, f"{why}, before it is flattened"
    shape = sizes.shapes[name][1:]
    if sum(size > 1 for size in shape) < 2:
        return SummarizedTensor(name, shape, None, (), why)
    axis = _channel_axis(name, producer, sizes, images)
    if axis is None:
        axis = len(shape)
        why += ", and the operators do not determine the channel axis, so the last axis is taken, as in Keras"
    channels = axis - 1
    spatial = [size for index, size in enumerate(shape) if index != channels]
    cells = GRID
    while cells > 1 and shape[channels] * math.prod(min(cells, size) for size in spatial) > FEATURES_MAX:
        cells -= 1
    return SummarizedTensor(name, shape, channels, tuple(min(cells, size) for size in spatial), why)


def _before_flattening(tensor: str, producer: dict[str, onnx.NodeProto], sizes: TensorSizes) -> str:
    """The tensor with spatial axes of which `tensor` is the flattened form; `tensor` itself if there is none."""
    name = tensor
    while name in producer and (producer[name].op_type in SHAPE_ONLY or producer[name].domain == DOMAIN):
        name = producer[name].input[0]
        shape = sizes.shapes.get(name, ())
        if not sizes.has_row_axis(name) or math.prod(shape) != math.prod(sizes.shapes[tensor]):
            return tensor
        if sum(size > 1 for size in shape[1:]) > 1:
            return name
    return tensor


def _channel_axis(
    tensor: str, producer: dict[str, onnx.NodeProto], sizes: TensorSizes, images: frozenset[str]
) -> int | None:
    """The channel axis of a tensor with rows on axis 0; None if the operators do not determine it.

    Args:
        tensor: name of the tensor.
        producer: the node that computes each value, by the name of the value.
        sizes: shapes of the graph's values.
        images: names of the graph's inputs.
    """
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
            if not alike or node.op_type in SHAPE_ONLY[:2]:
                return None
            name = alike[0]
    if name in images and len(sizes.shapes[name]) > 2:
        axis = len(sizes.shapes[name]) - 1  # exported models take images as [N, H, W, C]
    for permutation in reversed(transposes):
        axis = None if axis is None else list(permutation).index(axis)
    return axis
