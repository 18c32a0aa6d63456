"""ONNX passes that settle what readers of a graph would get wrong: where rows are, and what padding holds.

In: a graph whose noise functions are there. Out: the same graph, in place, saying the same in a way
that neither the engine's planner nor onnxruntime's optimiser misreads.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.conditions import ensure

_LOWEST = "oodscreen/lowest"
_ROWS = 97
"""A prime that no layer is likely to have as a size: a first axis of this size is the row axis."""


def settle_reshapes(model: onnx.ModelProto) -> None:
    """Give each Reshape that counts rows a constant target: `[-1, sizes of a row]`.

    Converters compute such a target from the shape of some tensor. A constant says what happens to a
    row, and so does not hide from a planner that the rows stay apart.

    Requires: noise functions are there, so that shapes can be inferred through them. Ensures: no
    Reshape whose output is `[N, known sizes]` computes its target, and no node is left without a reader.
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
    """Shapes of all values for a batch of `_ROWS` images; an unknown size is 0."""
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
    """Remove nodes that nothing reads, and then those that only these read."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(node.input)
    weights = [value for value in graph.initializer if value.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def keep_padding_apart(model: onnx.ModelProto) -> None:
    """Keep onnxruntime from making a pooling's own padding out of a Pad with zeros.

    A MaxPool's own padding is minus infinity. onnxruntime's `Pad_Fusion` folds a Pad of zeros into
    it all the same (see tests/assumptions), which changes every border where the values are negative:
    ResNet50V2 says something else then. A maximum with the smallest number between them is no work to
    speak of, and no optimiser takes it away.

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
    ensure(all(node.op_type != "MaxPool" or node.input[0] not in padded for node in graph.node), "paddings are apart")
