"""Build the trunk: the part of a graph that runs once for each batch.

In: a `GraphSplit` and the plans of the sites. Out: a graph from images to boundary tensors. Most boundary tensors are
values of the exported graph, `[B, ...]`. A site that is run by subtraction adds two tensors: the input of its product,
transposed, and the full product (see `screen.engine.graph.subtraction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import DOMAIN
from screen.engine.graph.sites import SitePlan
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.split import GraphSplit


@dataclass(frozen=True)
class BoundaryTensor:
    """A tensor that the trunk outputs and the head reads.

    Attributes:
        name: name of the tensor in both graphs.
        shape: shape of one row, without the row axis.
        row_axis: index of the row axis: 0, or 1 for transposed features.
        type: ONNX element type.
    """

    name: str
    shape: tuple[int, ...]
    row_axis: int = 0
    type: int = TensorProto.FLOAT

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in float32."""
        return 4 * int(np.prod([max(size, 1) for size in self.shape]))

    def value_info(self) -> onnx.ValueInfoProto:
        """The tensor as an input or output of a graph."""
        shape: list[str | int | None] = [size or None for size in self.shape]
        shape.insert(self.row_axis, "B")
        return helper.make_tensor_value_info(self.name, self.type, shape)


@dataclass(frozen=True)
class Trunk:
    """The trunk graph and its outputs."""

    graph: onnx.GraphProto
    boundary: tuple[BoundaryTensor, ...]


def build_trunk(exported: onnx.GraphProto, split: GraphSplit, sites: Sequence[SitePlan], sizes: TensorSizes) -> Trunk:
    """Build the trunk graph.

    Args:
        exported: the exported graph, with its weights and its input.
        split: trunk, head and boundary of the graph.
        sites: plans of the sites.
        sizes: shapes of the values of `exported`.
    """
    nodes, constants = list(split.trunk), []
    boundary = [_exported_tensor(name, sizes) for name in split.boundary if _is_read(name, split, sites)]
    inputs = {node.name: node.input[0] for node in exported.node if node.domain == DOMAIN}
    for site in sites:
        if site.method != "subtracted" or site.chain is None:
            continue
        added, constant = _subtraction_nodes(inputs[site.site.name], site)
        nodes += added
        constants.append(constant)
        boundary.append(BoundaryTensor(site.features, (site.chain.inner,), row_axis=1))
        boundary.append(BoundaryTensor(site.full_product, (site.chain.outer,)))
    read = {name for node in nodes for name in node.input}
    weights = [value for value in exported.initializer if value.name in read]
    outputs = [tensor.value_info() for tensor in boundary]
    graph = helper.make_graph(nodes, "trunk", list(exported.input), outputs, [*weights, *constants])
    return Trunk(graph, tuple(boundary))


def _is_read(name: str, split: GraphSplit, sites: Sequence[SitePlan]) -> bool:
    """Whether any node of the head, apart from sites that are run by subtraction, reads a value."""
    subtracted = {site.site.name for site in sites if site.method == "subtracted"}
    return any(name in node.input for node in split.head if node.domain != DOMAIN or node.name not in subtracted)


def _exported_tensor(name: str, sizes: TensorSizes) -> BoundaryTensor:
    """A value of the exported graph as a boundary tensor."""
    return BoundaryTensor(name, sizes.shapes.get(name, ())[1:], type=sizes.types[name])


def _subtraction_nodes(data: str, site: SitePlan) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    """Nodes from a site's input to its transposed features and the full product, and the constant that they read."""
    chain = site.chain
    assert chain is not None  # noqa: S101  a site that is run by subtraction has a chain
    nodes = []
    for index, link in enumerate(chain.shape_nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(link)
        copy.name = copy.output[0] = f"{site.prefix}/shape_{index}"
        copy.input[0] = data
        nodes.append(copy)
        data = copy.output[0]
    sum_name, keep_name = f"{site.prefix}/sum", f"{site.prefix}/over_keep_rate"
    over_keep_rate = numpy_helper.from_array(np.array(1 / (1 - site.site.rate), np.float32), keep_name)
    nodes += [
        helper.make_node("Transpose", [data], [site.features], name=site.features, perm=[1, 0]),
        helper.make_node("Gemm", [data, chain.weight], [sum_name], name=sum_name, transB=int(chain.transposed)),
        helper.make_node("Mul", [sum_name, keep_name], [site.full_product], name=site.full_product),
    ]
    return nodes, over_keep_rate
