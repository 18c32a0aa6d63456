"""Search ONNX graphs: all nodes at any depth, constant values, and the nodes on which a value depends.

In: an ONNX model. Out: nodes and arrays. Values that do not depend on an input are computed in onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

STANDARD = ("", "ai.onnx")
"""Names of the domain of the standard operators."""

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Standard operators that draw random numbers, except Dropout."""

_MOST_NODES = 64
"""Maximum number of nodes that are run to evaluate a constant."""

_SMALL = 64
"""Maximum number of elements of an initializer that `fold_small_constants` reads."""


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 if the model imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)


def node_lists(model: onnx.ModelProto) -> Iterator[Any]:
    """The lists of nodes of the graph, of its subgraphs and of the functions; a change to a list changes the model."""
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        holder = waiting.pop()
        yield holder.node
        waiting += [graph for node in holder.node for graph in subgraphs_of(node)]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a model, at any depth."""
    for nodes in node_lists(model):
        yield from nodes


def subgraphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The subgraphs of a node: branches of an If, bodies of a Loop or Scan."""
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs)
    ]


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node reads, and of the values that its subgraphs read or return."""
    names = {name for name in node.input if name}
    for graph in subgraphs_of(node):
        for inner in graph.node:
            names |= read_by(inner)
        names |= {value.name for value in graph.output}
    return names


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """For each value of a graph, by its name, the nodes that read the value."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in read_by(node):
            readers.setdefault(name, []).append(node)
    return readers


def producers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """For each value of a graph, by its name, the node that computes the value."""
    return {name: node for node in graph.node for name in node.output if name}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Values of the attributes of a node, by name."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph by the given nodes, which may be nodes of this graph."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def keep_needed(graph: onnx.GraphProto, inputs: Iterable[str] = ()) -> None:
    """Remove the nodes and initializers on which no output depends, and unread inputs that are not in `inputs`."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed |= read_by(node)
    replace_nodes(graph, kept[::-1])
    unread: Any
    for values in (graph.initializer, graph.input):
        for unread in [value for value in values if value.name not in needed and value.name not in inputs]:
            values.remove(unread)


def fold_small_constants(model: onnx.ModelProto) -> None:
    """Replace the nodes that depend only on small constants by constants, such as the bounds of a slice.

    Only nodes of the main graph are replaced. Shape inference reads constants, but evaluates only few operators.
    """
    graph = model.graph
    small = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) <= _SMALL}
    folded = []
    for node in graph.node:
        deterministic = node.op_type not in (*RANDOM, "Dropout") and node.domain in STANDARD and not subgraphs_of(node)
        if deterministic and node.input and all(name in small for name in node.input if name):
            folded.append(node)
            small.update(node.output)
    if not folded:
        return
    names = [name for node in folded for name in node.output if name]
    values = run_constants(model, folded, names)
    if values is None:
        return
    replace_nodes(graph, [node for node in graph.node if not any(name in names for name in node.output)])
    outputs = {value.name for value in graph.output}
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in names if name not in outputs)


def run_constants(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: Sequence[str]
) -> dict[str, NDArray[Any]] | None:
    """Values by name of nodes that depend only on initializers; None if onnxruntime cannot compute them.

    Args:
        model: the model of the nodes.
        nodes: the nodes, in topological order.
        names: names of the values to compute.
    """
    from export.runtime import onnxruntime

    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(nodes, "constants", [], [onnx.ValueInfoProto(name=name) for name in names], weights)
    standard = [entry for entry in model.opset_import if entry.domain in STANDARD]
    reduced = helper.make_model(graph, opset_imports=standard)
    reduced.ir_version = model.ir_version
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # no log lines
    try:
        session = onnxruntime.InferenceSession(
            reduced.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        return dict(zip(names, map(np.asarray, session.run(list(names), {})), strict=True))
    except Exception:  # noqa: BLE001  a value that onnxruntime cannot compute is unknown
        return None


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename the values of a graph and of its subgraphs; `names` contains new names by old names."""
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)
        for subgraph in subgraphs_of(node):
            rename_values(subgraph, names)
    holders: list[Any] = [*graph.input, *graph.output, *graph.initializer, *graph.value_info]
    for holder in holders:
        holder.name = names.get(holder.name, holder.name)


class Constants:
    """Values of a graph that do not depend on its inputs.

    Args:
        model: the model; results of its functions are not known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = producers_of(model.graph)
        self._known: dict[str, NDArray[Any] | None] = {}

    def value(self, name: str) -> NDArray[Any] | None:
        """The value with this name; None if the value is not known.

        A value is not known if it depends on an input, on random numbers or on too many nodes, or cannot be computed.
        """
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def root(self, name: str) -> str:
        """Name of the value of which the named value is a copy or a cast; else the given name."""
        node = self._producers.get(name)
        while node is not None and node.op_type in ("Identity", "Cast"):
            name = node.input[0]
            node = self._producers.get(name)
        return name

    def _find(self, name: str) -> NDArray[Any] | None:
        if name in self._weights:
            return numpy_helper.to_array(self._weights[name])
        node = self._producers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return _constant(node)
        if node.op_type == "Identity":
            return self.value(node.input[0])
        return self._evaluate(name)

    def _evaluate(self, name: str) -> NDArray[Any] | None:
        """The value, computed by running the nodes on which it depends; None in the same cases as for `value`."""
        nodes: dict[str, onnx.NodeProto] = {}
        waiting = [name]
        while waiting:
            value = waiting.pop()
            if value in self._weights:
                continue
            node = self._producers.get(value)
            if node is None or node.op_type in RANDOM or node.op_type == "Dropout" or len(nodes) > _MOST_NODES:
                return None
            if node.output[0] not in nodes:
                nodes[node.output[0]] = node
                waiting += list(read_by(node))
        ordered = [node for node in self._model.graph.node if node.output and node.output[0] in nodes]
        values = run_constants(self._model, ordered, [name])
        return None if values is None else values[name]


def _constant(node: onnx.NodeProto) -> NDArray[Any] | None:
    """The value of a Constant node; None if it is sparse, is a text, or refers to an attribute of a function."""
    attribute = node.attribute[0]
    if attribute.ref_attr_name:
        return None
    value = helper.get_attribute_value(attribute)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    return np.asarray(value, kinds[attribute.name]) if attribute.name in kinds else None
