"""Make the batch axis of an ONNX graph variable: most exporters fix the number of rows by default.

In: a graph with marked sites, and the fixed number of rows of its input. Out: the graph with a variable batch axis,
changed in place. The verification compares the outputs of a row in a batch with the outputs of the row alone, so that a
graph that mixes rows is never exported.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_source.graphs import Constants, attributes_of, fold_small_constants, read_by, replace_nodes
from export.onnx_source.marks import without_marks

_MORE = 97
"""Ratio of the two numbers of rows for which shapes are compared: a prime that is unlikely as a layer size."""

_SMALL_WEIGHT = 1024
"""Maximum bytes of a weight whose values shape inference reads."""


def make_batch_variable(model: onnx.ModelProto, name: str, batch: int) -> None:
    """Allow any number of rows in the input and in the output of a graph.

    Constants that contain the fixed number of rows are replaced: in the target shape of a Reshape, the size of the axis
    that contains the rows; in the target shape of an Expand, the first size. If the first size of a
    constant operand of a Concat, such as a class token, is this number, the operand is repeated for each row.

    Args:
        model: the graph.
        name: name of the image input.
        batch: fixed number of rows; 0 if the number is variable, in which case no constant changes.
    """
    graph = model.graph
    if batch:
        fold_small_constants(model)
        shapes = _shapes(model, name, batch)
        _free_expands(model, name, shapes, batch)
        _repeat_constants(model, name, batch)
        _free_reshapes(model, name, shapes, batch)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]


def _shapes(model: onnx.ModelProto, name: str, rows: int) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the values of a graph for `rows` rows; values with an unknown size are left out.

    For shape inference, large weights become inputs without a value, so that the inferred graph is small.
    """
    light = without_marks(model, weights=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _SMALL_WEIGHT:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in (*light.graph.input, *light.graph.output):
        if value.name == name:
            value.type.tensor_type.shape.dim[0].dim_value = rows
    for output in light.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    }
    return {one: shape for one, shape in shapes.items() if 0 not in shape}


def _free_reshapes(model: onnx.ModelProto, name: str, shapes: dict[str, tuple[int, ...]], batch: int) -> None:
    """Replace, in the constant target shape of each Reshape, the size of the axis that contains the rows by -1."""
    constants, graph = Constants(model), model.graph
    joined = {name: 1}
    """By name of each value that depends on the image: product of the sizes before the rows in the axis of the rows."""
    for node in graph.node:
        source = next((one for one in node.input if one in joined), None)
        if source is None:
            continue
        joined.update(dict.fromkeys(node.output, joined[source]))
        if node.op_type != "Reshape" or source != node.input[0] or constants.value(node.input[1]) is None:
            continue
        before, after = shapes.get(source, ()), shapes.get(node.output[0], ())
        more = _shapes(model, name, _MORE * batch).get(source, ())
        axes = [axis for axis, sizes in enumerate(zip(before, more, strict=False)) if sizes[0] != sizes[1]]
        if not after or len(axes) != 1 or len(before) != len(more):
            continue
        outer = math.prod(before[: axes[0]]) * joined[source]
        axis = _axis_of_rows(outer, after)
        joined[node.output[0]] = max(1, outer // math.prod(after[:axis]))
        sizes = [*after[:axis], -1, *after[axis + 1 :]]
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), f"{node.output[0]}/any_rows"))
        node.input[1] = graph.initializer[-1].name
        kept = [one for one in node.attribute if one.name != "allowzero"]
        copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
        del node.attribute[:]
        node.attribute.extend(copies)


def _axis_of_rows(outer: int, after: tuple[int, ...]) -> int:
    """The axis that contains the rows in a reshaped value.

    If the number of rows is 1, no size shows this axis: the result is then the axis that begins at the position of the
    rows, or the axis before it if the last axis begins there and is longer than 1.

    Args:
        outer: product of the sizes before the rows.
        after: shape of the reshaped value.
    """
    start = 1
    for axis, size in enumerate(after):
        if start * size > outer or (start == outer and size == 1):
            is_features = axis == len(after) - 1 and start == outer and axis > 0 and size > 1
            return axis - 1 if is_features else axis
        start *= size
    return len(after) - 1


def _free_expands(model: onnx.ModelProto, name: str, shapes: dict[str, tuple[int, ...]], batch: int) -> None:
    """Replace the constant number of rows in the target shape of each Expand.

    The number of rows of the input replaces the constant. If the expanded value depends on the input, 1 replaces the
    constant, because the value already has the rows of the input.
    """
    constants, graph = Constants(model), model.graph
    depends = _on_input(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        target = constants.value(node.input[1]) if node.op_type == "Expand" else None
        before = shapes.get(node.input[0], ()) if node.input else ()
        after = shapes.get(node.output[0], ()) if node.output else ()
        if target is None or not after or after[0] != batch or len(before) != len(after):
            nodes.append(node)
        elif node.input[0] in depends:
            graph.initializer.append(
                numpy_helper.from_array(np.array([1, *after[1:]], np.int64), f"{node.output[0]}/any_rows")
            )
            node.input[1] = graph.initializer[-1].name
            nodes.append(node)
        else:
            nodes += _expand(model, name, node.input[0], node.output[0], after[1:])
    replace_nodes(graph, nodes)


def _repeat_constants(model: onnx.ModelProto, name: str, batch: int) -> None:
    """For each row of the input, repeat the constant operands of each Concat if their first size is `batch`."""
    graph, constants = model.graph, Constants(model)
    depends = _on_input(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Concat" and any(one in depends for one in node.input):
            axis = attributes_of(node)["axis"]
            for index, one in enumerate(node.input):
                value = None if one in depends else constants.value(one)
                if value is not None and value.shape[:1] == (batch,) and axis % value.ndim != 0:
                    repeated = f"{node.output[0]}/operand_{index}"
                    nodes += _expand(model, name, one, repeated, value.shape[1:], first_row=batch > 1)
                    node.input[index] = repeated
        nodes.append(node)
    replace_nodes(graph, nodes)


def _expand(
    model: onnx.ModelProto, name: str, value: str, output: str, row: tuple[int, ...], *, first_row: bool = False
) -> list[onnx.NodeProto]:
    """Nodes that repeat a value, or its first row if `first_row` is true, for each row of the input `name`."""
    graph, nodes = model.graph, []
    known = {tensor.name for tensor in graph.initializer}
    for key, numbers in ((f"{output}/row", list(row)), ("oodscreen/zero", [0]), ("oodscreen/one", [1])):
        if key not in known:
            graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), key))
    if first_row:
        nodes.append(
            helper.make_node(
                "Slice",
                [value, "oodscreen/zero", "oodscreen/one", "oodscreen/zero"],
                [f"{output}/first"],
                name=f"{output}/first",
            )
        )
        value = f"{output}/first"
    shape, rows, target = f"{output}/image_shape", f"{output}/rows", f"{output}/target"
    return [
        *nodes,
        helper.make_node("Shape", [name], [shape], name=shape),
        helper.make_node("Slice", [shape, "oodscreen/zero", "oodscreen/one", "oodscreen/zero"], [rows], name=rows),
        helper.make_node("Concat", [rows, f"{output}/row"], [target], name=target, axis=0),
        helper.make_node("Expand", [value, target], [output], name=f"{output}/repeated"),
    ]


def _on_input(graph: onnx.GraphProto) -> set[str]:
    """Names of the values that depend on an input of the graph."""
    found = {value.name for value in graph.input}
    for node in graph.node:
        if read_by(node) & found:
            found.update(node.output)
    return found
