"""Divide a graph whose noise is an input into the part before the noise and the part after it.

In: a graph with inputs for the noise. Out: two graphs, so that the first part is computed only once for several
passes over the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper


def divide(model: onnx.ModelProto, noise: Sequence[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The part of a graph that does not depend on its noise.

    Args:
        model: the graph.
        noise: names of the inputs with the noise.

    Returns:
        A graph without the inputs in `noise`, which returns the values that `part_after` reads; and the names of
        these values.
    """
    before, after = _divide_nodes(model, noise)
    made = {name for node in before for name in node.output} | {value.name for value in model.graph.input}
    needed = (name for node in after for name in _values_read(node))
    boundary = tuple(dict.fromkeys(name for name in needed if name in made and name not in noise))
    inputs = [value for value in model.graph.input if value.name not in noise]
    outputs = [onnx.ValueInfoProto(name=name) for name in boundary]
    return _part(model, before, inputs, outputs), boundary


def part_after(model: onnx.ModelProto, noise: Sequence[str], boundary: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The part of a graph that depends on its noise.

    Args:
        model: the graph.
        noise: names of the inputs with the noise.
        boundary: the outputs of the first part by name, for any images; only their types matter.
    """
    _, after = _divide_nodes(model, noise)
    inputs = [value for value in model.graph.input if value.name in noise]
    for name, values in boundary.items():
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), None))
    return _part(model, after, inputs, list(model.graph.output))


def _divide_nodes(model: onnx.ModelProto, noise: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that do not depend on the noise, and the nodes that depend on it."""
    noisy, before, after = set(noise), [], []
    for node in model.graph.node:
        if noisy.isdisjoint(_values_read(node)):
            before.append(node)
        else:
            after.append(node)
            noisy.update(node.output)
    return before, after


def _values_read(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node and the graphs in it read."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _values_read(inner)


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A graph of some of the nodes, with the initializers that they read."""
    read = {name for node in nodes for name in _values_read(node)}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(nodes, "part", inputs, outputs, weights)
    part = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    part.ir_version = model.ir_version
    return part
