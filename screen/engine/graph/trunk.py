"""Build the trunk: the part of a graph that runs once a batch, and what it hands to the head.

In: a `GraphSplit` and how the sites are run. Out: a graph from images to boundary tensors. Most are
values of the exported graph, `[B, ...]`; for a site that is run by subtraction they are the rows as
its product sees them, transposed, and that product (see `screen.engine.graph.subtraction`).
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
    """A value that the trunk hands to the head.

    Attributes:
        name: in both graphs.
        shape: of one row, the row axis left out.
        row_axis: which axis counts rows; 0, or 1 for features that are transposed.
        type: ONNX element type.
    """

    name: str
    shape: tuple[int, ...]
    row_axis: int = 0
    type: int = TensorProto.FLOAT

    @property
    def row_bytes(self) -> int:
        """What one row takes, in bytes, as float32."""
        return 4 * int(np.prod([max(size, 1) for size in self.shape]))

    def value_info(self) -> onnx.ValueInfoProto:
        """As an input or output of a graph."""
        shape: list[str | int | None] = [size or None for size in self.shape]
        shape.insert(self.row_axis, "B")
        return helper.make_tensor_value_info(self.name, self.type, shape)


@dataclass(frozen=True)
class Trunk:
    """The trunk graph and what it hands over."""

    graph: onnx.GraphProto
    boundary: tuple[BoundaryTensor, ...]


def build_trunk(whole: onnx.GraphProto, split: GraphSplit, sites: Sequence[SitePlan], sizes: TensorSizes) -> Trunk:
    """Build the trunk graph.

    Args:
        whole: the exported graph, for its weights and its input.
        split: what belongs to trunk and head.
        sites: how each site is run.
        sizes: shapes of the values of `whole`.
    """
    nodes, constants = list(split.trunk), []
    boundary = [_raw(name, sizes) for name in split.boundary if _is_read(name, split, sites)]
    inputs = {node.name: node.input[0] for node in whole.node if node.domain == DOMAIN}
    for site in sites:
        if site.how != "subtracted" or site.chain is None:
            continue
        added, constant = _subtraction_nodes(inputs[site.site.name], site)
        nodes += added
        constants.append(constant)
        boundary.append(BoundaryTensor(site.features, (site.chain.inner,), row_axis=1))
        boundary.append(BoundaryTensor(site.whole, (site.chain.outer,)))
    read = {name for node in nodes for name in node.input}
    weights = [value for value in whole.initializer if value.name in read]
    outputs = [tensor.value_info() for tensor in boundary]
    graph = helper.make_graph(nodes, "trunk", list(whole.input), outputs, [*weights, *constants])
    return Trunk(graph, tuple(boundary))


def _is_read(name: str, split: GraphSplit, sites: Sequence[SitePlan]) -> bool:
    """Whether the head reads a value itself, and not only by way of a product that the trunk makes."""
    subtracted = {site.site.name for site in sites if site.how == "subtracted"}
    return any(name in node.input for node in split.head if node.domain != DOMAIN or node.name not in subtracted)


def _raw(name: str, sizes: TensorSizes) -> BoundaryTensor:
    return BoundaryTensor(name, sizes.shapes.get(name, ())[1:], type=sizes.types[name])


def _subtraction_nodes(data: str, site: SitePlan) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    """From a site's input to its features and the product of them all; and the constant that this reads."""
    chain = site.chain
    assert chain is not None  # noqa: S101  only such a site is run by subtraction
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
        helper.make_node("Mul", [sum_name, keep_name], [site.whole], name=site.whole),
    ]
    return nodes, over_keep_rate
