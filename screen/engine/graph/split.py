"""Split an exported graph into the nodes that run once for each batch and those that run T times.

In: a graph. Out: a `GraphSplit`.

Every value of the graph is constant (depends on initializers only), a trunk value (depends on the image, but on no
site) or stochastic (depends on a site). The trunk values that stochastic nodes read form the boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from export.contract.metadata import DOMAIN


@dataclass(frozen=True)
class GraphSplit:
    """Trunk, head and boundary of a graph.

    Attributes:
        trunk: nodes on which the boundary depends, in order; none depends on a site.
        head: nodes that depend on a site, and the constant and shape nodes on which these depend, in order.
        boundary: names of the trunk values that the head reads, in order.
    """

    trunk: tuple[onnx.NodeProto, ...]
    head: tuple[onnx.NodeProto, ...]
    boundary: tuple[str, ...]


def split_graph(graph: onnx.GraphProto) -> GraphSplit:
    """The trunk and head of a graph, and the boundary between them."""
    nodes = list(graph.node)
    producer = {name: index for index, node in enumerate(nodes) for name in node.output}
    constant = {value.name for value in graph.initializer} | {""}
    stochastic: set[str] = set()
    head: set[int] = set()
    for index, node in enumerate(nodes):
        if node.domain == DOMAIN or any(name in stochastic for name in node.input):
            stochastic.update(node.output)
            head.add(index)
        elif all(name in constant for name in node.input):
            constant.update(node.output)

    shape_nodes = _shape_arithmetic(nodes, producer, constant, head)
    shape_reads = [nodes[index].input[0] for index in sorted(shape_nodes) if nodes[index].op_type == "Shape"]
    head |= shape_nodes
    needed = {name for index in head for name in nodes[index].input}
    for index in range(len(nodes) - 1, -1, -1):  # constant nodes are cheap, so the head contains copies of its own
        if index not in head and any(name in constant and name in needed for name in nodes[index].output):
            head.add(index)
            needed.update(nodes[index].input)
    made = constant.union(*(nodes[index].output for index in head))
    read = [
        name
        for index in sorted(head)
        for name in nodes[index].input
        if name not in made and not (nodes[index].op_type == "Shape" and name in shape_reads)
    ]
    boundary = tuple(dict.fromkeys(read))
    return GraphSplit(
        trunk=tuple(ancestors(boundary, nodes)),
        head=tuple(nodes[index] for index in sorted(head)),
        boundary=boundary,
    )


_SHAPE_OPS = frozenset(
    [
        "Shape",
        "Gather",
        "Slice",
        "Concat",
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Mul",
        "Add",
        "Sub",
        "Div",
        "ReduceProd",
        "Identity",
        "Reshape",
        "Max",
        "Min",
    ]
)


def _shape_arithmetic(
    nodes: list[onnx.NodeProto], producer: dict[str, int], constant: set[str], head: set[int]
) -> set[int]:
    """Indices of the nodes of shape arithmetic on which the head depends.

    These nodes must be in the head, because a shape has B rows in the trunk and P * B rows in the head.
    """

    def chain(name: str) -> set[int] | None:
        """The nodes from `Shape` to `name`; None where the value depends on more than shapes."""
        if name in constant:
            return set()
        index = producer.get(name)
        if index is None or index in head or nodes[index].op_type not in _SHAPE_OPS:
            return None
        links = {index}
        if nodes[index].op_type == "Shape":
            return links
        for read in nodes[index].input:
            earlier = chain(read)
            if earlier is None:
                return None
            links |= earlier
        return links

    found: set[int] = set()
    for index in head:
        for name in nodes[index].input:
            found |= chain(name) or set()
    return found


def ancestors(names: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes on which some values depend, in order.

    Args:
        names: names of the values.
        nodes: nodes of a graph, in order.
    """
    wanted, needed = set(names), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]
