"""Choose the tensors that serve as features: an early and the penultimate tensor of the network.

In: an exported graph and its sizes. Out: a `FeaturePlan`, a pure value. `screen.engine.graph.features.nodes` adds the
nodes.

Features are read from the deterministic network, in which every dropout site is the identity, so every distance is
known before the first pass, wherever the dropout sites are.

- The early tensor has spatial axes (height and width, or tokens) if possible, and about half of the arithmetic precedes
  it. Its summary has the mean of each channel over each cell of a small grid, and each channel's mean and standard
  deviation over all positions: layout, magnitude and contrast, which later layers of a classifier may not retain.
- The penultimate tensor is the input of the last layer with weights. The network computes the class from this tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from export.contract.metadata import DOMAIN
from screen.engine.graph.builder import PREFIX
from screen.engine.graph.features.tensors import SHAPE_ONLY, SummarizedTensor, summarize_tensor
from screen.engine.graph.sizes import TensorSizes, count_flops
from screen.engine.graph.split import ancestors

FEATURES = PREFIX + "features"

_LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


@dataclass(frozen=True)
class FeaturePlan:
    """The two tensors that serve as features, and the positions of their summaries in a row's feature vector.

    The vector of F features contains, in this order: the cell means of the early tensor (`layout`), the mean and the
    standard deviation of each of its C channels (`contrast`), and the cell means of the penultimate tensor
    (`penultimate`). A group without features is empty.

    Attributes:
        early: tensor that about half of the arithmetic precedes.
        penultimate: input of the last layer with weights.
        flops: floating point operations for one row that the two tensors need in addition to the trunk.
    """

    early: SummarizedTensor
    penultimate: SummarizedTensor
    flops: int = 0

    @property
    def deviations(self) -> int:
        """Number of standard deviations of channels, C; 0 if the early tensor has no spatial axes."""
        return 0 if self.early.channels is None else self.early.shape[self.early.channels]

    @property
    def groups(self) -> dict[str, slice]:
        """Positions of each group of features that is not empty, by name."""
        sizes = {
            "layout": self.early.cell_means,
            "contrast": 2 * self.deviations,
            "penultimate": self.penultimate.cell_means,
        }
        groups, start = {}, 0
        for name, size in sizes.items():
            if size:
                groups[name] = slice(start, start + size)
            start += size
        return groups

    @property
    def size(self) -> int:
        """F, the number of features of a row; 0 if there are none."""
        return self.early.cell_means + 2 * self.deviations + self.penultimate.cell_means

    def describe(self, groups: tuple[str, ...] = ("layout", "contrast", "penultimate")) -> tuple[tuple[str, str], ...]:
        """Pairs of a group and the description of its tensor, for `oodscreen inspect` and calibrations.

        Args:
            groups: the groups to describe; `layout` and `contrast`, which have the same tensor, are one entry.
        """
        early = [name for name in groups if name == "layout" or (name == "contrast" and self.deviations)]
        pairs = [(", ".join(early), self.early.describe())] if early else []
        return (*pairs, *((name, self.penultimate.describe()) for name in groups if name == "penultimate"))


def plan_features(graph: onnx.GraphProto, sizes: TensorSizes, trunk: Sequence[onnx.NodeProto]) -> FeaturePlan:
    """Choose the early and the penultimate tensor, and the summary of each.

    Args:
        graph: the exported graph.
        sizes: shapes of the graph's values.
        trunk: nodes of the trunk, whose arithmetic is not counted again.
    """
    images = frozenset(value.name for value in graph.input)
    nodes = ancestors([graph.output[0].name], graph.node)
    producer = {name: node for node in nodes for name in node.output}
    last = next((node for node in reversed(nodes) if _is_layer(node, sizes)), None)
    name = "" if last is None else _skip_sites(last.input[0], producer)
    before = [] if last is None else ancestors([name], nodes)
    if not name or not _is_usable(name, sizes) or not any(_is_layer(node, sizes) for node in before):
        why = "the last layer with weights has no suitable input, or no layer with weights precedes this layer"
        penultimate = SummarizedTensor("", (), None, (), why)
        before = nodes
    else:
        penultimate = summarize_tensor(name, "the input of the last layer with weights", producer, sizes, images)
    early = _choose_early(images, before, {name, penultimate.name, graph.output[0].name}, producer, sizes)
    needed = ancestors([one.name for one in (early, penultimate) if one.name], nodes)
    own = {output for node in trunk for output in node.output}
    flops = count_flops([node for node in needed if own.isdisjoint(node.output)], sizes)
    return FeaturePlan(early, penultimate, flops)


def _choose_early(
    images: frozenset[str],
    nodes: Sequence[onnx.NodeProto],
    excluded: set[str],
    producer: dict[str, onnx.NodeProto],
    sizes: TensorSizes,
) -> SummarizedTensor:
    """The early tensor: the bottleneck (see `_bottlenecks`) nearest to half of the arithmetic.

    Of tensors with the same arithmetic before them, the last is chosen, behind activation and pooling. A tensor with
    spatial axes is preferred to a flat tensor. At least one layer is between the early and the penultimate tensor.
    """
    total = max(1, count_flops(nodes, sizes))
    narrow = _bottlenecks(images, nodes, sizes)
    spent, candidates = 0, []
    for position, node in enumerate(nodes):
        spent += count_flops([node], sizes)
        if spent == 0 and node.op_type in SHAPE_ONLY:
            continue  # in a reshaped image, the channel axis is not known
        name = node.output[0]
        if name in narrow and name not in excluded and spent < total and _is_usable(name, sizes):
            spatial = sum(size > 1 for size in sizes.shapes[name][1:]) > 1
            candidates.append((spatial, -abs(spent / total - 0.5), position, spent / total, name))
    if not candidates:
        return SummarizedTensor("", (), None, (), "no suitable tensor precedes the penultimate tensor")
    *_, share, name = max(candidates)
    return summarize_tensor(name, f"{share:.0%} of the arithmetic precedes it", producer, sizes, images)


def _bottlenecks(images: frozenset[str], nodes: Sequence[onnx.NodeProto], sizes: TensorSizes) -> set[str]:
    """The tensors through which every path from the images to the output leads, such as a residual block's output."""
    constant = set(sizes.initializers) | {""}
    last_read = {name: index for index, node in enumerate(nodes) for name in node.input}
    live = set(images)
    found = set()
    for index, node in enumerate(nodes):
        if all(name in constant for name in node.input) or sizes.types.get(node.output[0]) in _INTEGERS:
            constant.update(node.output)  # integers are shapes, which do not depend on pixels
            continue
        live.update(node.output)
        live = {name for name in live if last_read.get(name, len(nodes)) > index}
        if live == {node.output[0]}:
            found.add(node.output[0])
    return found


_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def _is_layer(node: onnx.NodeProto, sizes: TensorSizes) -> bool:
    """Whether a node multiplies a value by a weight."""
    return node.op_type in _LAYERS and node.input[1] in sizes.initializers


def _is_usable(name: str, sizes: TensorSizes) -> bool:
    """Whether a value is a float tensor of known shape, with its rows on the first axis."""
    return (
        sizes.types.get(name) == TensorProto.FLOAT
        and sizes.has_row_axis(name)
        and len(sizes.shapes[name]) > 1
        and 0 not in sizes.shapes[name]
    )


def _skip_sites(name: str, producer: dict[str, onnx.NodeProto]) -> str:
    while name in producer and producer[name].domain == DOMAIN:
        name = producer[name].input[0]
    return name
