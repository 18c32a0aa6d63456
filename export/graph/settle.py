"""Rewrite two ONNX constructs: computed Reshape targets, and a Pad before a MaxPool.

In: a graph with noise functions. Out: an equivalent graph, changed in place: Reshape targets are constant, because the
engine's planner cannot analyse computed targets, and a Max separates a Pad from a MaxPool, so that onnxruntime's
`Pad_Fusion` does not change the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.conditions import ensure

_LOWEST = "oodscreen/lowest"
_ROWS = 97
"""Batch size for shape inference: a prime that is unlikely as a layer size, so that only the row axis has this size."""


def make_reshapes_constant(model: onnx.ModelProto) -> None:
    """Replace the computed target of each Reshape that keeps the rows by the constant `[-1, *shape of a row]`.

    Converters compute the target from the shape of a tensor. From a constant target, the planner derives that
    the Reshape does not mix rows.

    Requires: the model has its noise functions, because shapes are inferred through them.
    Ensures: no Reshape with an output of shape `[N, *known sizes]` has a computed target, and the output of
    the graph depends on every node.
    """
    graph = model.graph
    constant = {value.name for value in graph.initializer}
    shapes = _shapes_for_rows(model)
    for node in graph.node:
        shape = shapes.get(node.output[0], ())
        computed = node.op_type == "Reshape" and node.input[1] not in constant
        if computed and shape[:1] == (_ROWS,) and 0 not in shape:
            target = np.array([-1, *shape[1:]], np.int64)
            graph.initializer.append(numpy_helper.from_array(target, f"{node.output[0]}/rows"))
            node.input[1] = graph.initializer[-1].name
    _remove_unread(graph)


def _shapes_for_rows(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every value for a batch of `_ROWS` images; 0 for an unknown size."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = _ROWS
    for output in copy.graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }


def _remove_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and initializers on which no output of the graph depends."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(_read_by(node))
    weights = [value for value in graph.initializer if value.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node and its subgraphs read; the body of a Loop is a subgraph."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)
        yield from (value.name for value in attribute.g.output)


def prevent_pad_fusion(model: onnx.ModelProto) -> None:
    """Insert a Max between a Pad and a MaxPool, so that onnxruntime does not fuse these two nodes.

    A MaxPool pads with minus infinity. onnxruntime's `Pad_Fusion` fuses even a Pad with zeros into the
    MaxPool (see tests/assumptions). This fusion changes the output at borders with negative values, for example in
    ResNet50V2. The maximum with the lowest float32 changes no value and is cheap, and onnxruntime does not remove it.

    Ensures: no MaxPool reads a Pad.
    """
    graph = model.graph
    padded = {node.output[0] for node in graph.node if node.op_type == "Pad"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in padded:
            apart = f"{node.input[0]}/apart_from/{node.output[0]}"
            nodes.append(helper.make_node("Max", [node.input[0], _LOWEST], [apart], name=apart))
            node.input[0] = apart
        nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float32).min, np.float32), _LOWEST))
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(ordered)
    ensure(
        all(node.op_type != "MaxPool" or node.input[0] not in padded for node in graph.node), "no MaxPool reads a Pad"
    )
