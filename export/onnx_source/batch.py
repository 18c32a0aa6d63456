"""Make the batch axis of an ONNX graph variable: an exporter writes a fixed number of rows unless told otherwise.

In: a graph with marked sites, and the fixed number of rows of its input. Out: the graph with a variable batch axis,
changed in place. The proof compares the outputs of batches with those of the file row by row, so that a graph that
mixes rows is never exported.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_source.graphs import Constants, attributes_of, read_by, replace_nodes
from export.onnx_source.marks import without_marks

_ROWS = "oodscreen/rows"
"""Name of the value with the number of rows, `int64 [1]`."""


def make_batch_variable(model: onnx.ModelProto, name: str, batch: int) -> None:
    """Make the batch axis of the input and of the output variable.

    Constants with the fixed number of rows are replaced: the first size in the target of a Reshape, and the first size
    in the target of an Expand. A constant operand of a Concat, such as a class token, is repeated for each row.

    Args:
        model: the graph.
        name: name of the image input.
        batch: fixed number of rows; 0 if it is variable, and nothing but the names of the axes changes.
    """
    graph = model.graph
    if batch:
        shapes = _static_shapes(without_marks(model))
        _free_reshapes(model, shapes, batch)
        _free_expands(model, name, shapes, batch)
        _repeat_constants(model, name, shapes, batch)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]


def _static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Known shapes of the values of a graph with a fixed batch; without values of unknown size."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {name: shape for name, shape in shapes.items() if 0 not in shape}


def _free_reshapes(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], batch: int) -> None:
    constants, graph = Constants(model), model.graph
    depends = _on_input(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in depends or constants.value(node.input[1]) is None:
            continue
        shape = shapes.get(node.output[0], ())
        if shape and shape[0] % batch == 0:
            target = np.array([-1, *shape[1:]], np.int64)
            graph.initializer.append(numpy_helper.from_array(target, f"{node.output[0]}/any_rows"))
            node.input[1] = graph.initializer[-1].name
            kept = [one for one in node.attribute if one.name != "allowzero"]
            copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
            del node.attribute[:]
            node.attribute.extend(copies)


def _free_expands(model: onnx.ModelProto, name: str, shapes: dict[str, tuple[int, ...]], batch: int) -> None:
    """Replace the constant number of rows in the target of each Expand by that of the image."""
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


def _repeat_constants(model: onnx.ModelProto, name: str, shapes: dict[str, tuple[int, ...]], batch: int) -> None:
    """Repeat constant operands of a Concat for each row."""
    graph = model.graph
    depends = _on_input(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Concat" and any(one in depends for one in node.input):
            axis = attributes_of(node)["axis"] % max(1, len(shapes.get(node.output[0], (1,))))
            for index, one in enumerate(node.input):
                shape = shapes.get(one, ())
                if one not in depends and axis != 0 and shape[:1] == (batch,):
                    repeated = f"{node.output[0]}/operand_{index}"
                    nodes += _expand(model, name, one, repeated, shape[1:], first_row=batch > 1)
                    node.input[index] = repeated
        nodes.append(node)
    replace_nodes(graph, nodes)


def _expand(
    model: onnx.ModelProto, name: str, value: str, output: str, row: tuple[int, ...], *, first_row: bool = False
) -> list[onnx.NodeProto]:
    """Nodes that repeat a value for each row of the image."""
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
