"""ONNX graph passes that turn a converted graph into an exported model.

In: a float32 graph of a Keras model or an ONNX file, with one custom node for each site. Out: a graph that takes uint8
images, draws noise in any onnxruntime session, and has its contract in the metadata. Each pass checks its
preconditions and postconditions, so that an invalid graph is never written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.contract.inputs import Preprocessing
from export.contract.metadata import DOMAIN, ModelContract, Site
from export.graph.conditions import ensure, require
from export.graph.functions import NOISE_KINDS, noise_function
from export.graph.settle import make_reshapes_constant, prevent_pad_fusion
from export.graph.variants import last_operation

INPUT_NAME = "image"
OUTPUT_NAME = "output"

_FLOAT_INPUT = "oodscreen/pixels"
_SHAPE_OPERATORS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def finish_graph(
    model: onnx.ModelProto, sites: Sequence[Site], preprocessing: Preprocessing, image_shape: tuple[int, int, int]
) -> None:
    """Run all passes except `stamp_metadata`, in order and in place."""
    name_sites(model, sites)
    rename_output(model)
    add_uint8_input(model, preprocessing, image_shape)
    add_noise_functions(model)
    make_reshapes_constant(model)
    prevent_pad_fusion(model)


def name_sites(model: onnx.ModelProto, sites: Sequence[Site]) -> None:
    """Give each noise node the name of its site.

    Requires: one noise node for each site, with the site's name as attribute.
    Ensures: each noise node has the name of its site, and only the attributes of the noise function.
    """
    nodes = {_text_attribute(node, "site"): node for node in _noise_nodes(model)}
    require(set(nodes) == {site.name for site in sites}, "one noise node for each site")
    for site in sites:
        node = nodes[site.name]
        for other in model.graph.node:
            if other.name == site.name:
                other.name = f"{site.name}/{other.op_type}"
        node.name = site.name
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("rate", site.rate))
        if site.noise_shape != site.shape:
            own = [int(draw == size) for draw, size in zip(site.noise_shape, site.shape, strict=True)]
            node.attribute.append(helper.make_attribute("noise_axes", [1, *own]))
    names = [node.name for node in model.graph.node]
    ensure(all(names.count(site.name) == 1 for site in sites), "site names are unique")


def rename_output(model: onnx.ModelProto) -> None:
    """Rename the output to `output`.

    Requires: exactly one output. Ensures: a node computes the renamed output.
    """
    require(len(model.graph.output) == 1, "one output")
    old = model.graph.output[0].name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = OUTPUT_NAME
    model.graph.output[0].name = OUTPUT_NAME
    _set_batch_axis(model.graph.output[0])
    ensure(any(OUTPUT_NAME in node.output for node in model.graph.node), "the output is computed")


def add_uint8_input(model: onnx.ModelProto, preprocessing: Preprocessing, image_shape: tuple[int, int, int]) -> None:
    """Replace the input by `image`, `uint8 [N, H, W, C]`, and add the operations of `Preprocessing` to the graph.

    Requires: one float32 input with the values of one image in each row. Ensures: the only input is `image`, uint8.
    """
    graph = model.graph
    require(len(graph.input) == 1, "one input")
    old = graph.input[0]
    require(old.type.tensor_type.elem_type == TensorProto.FLOAT, "a float32 input")
    sizes = [dim.dim_value for dim in old.type.tensor_type.shape.dim][1:]
    require(math.prod(sizes) == math.prod(image_shape), "an input with the values of one image in each row")

    steps: list[onnx.NodeProto] = []
    current = INPUT_NAME
    if preprocessing.reverse_channels:
        backwards = np.arange(image_shape[2], dtype=np.int64)[::-1]
        graph.initializer.append(numpy_helper.from_array(backwards.copy(), "oodscreen/backwards"))
        inputs = [current, "oodscreen/backwards"]
        current = "oodscreen/reversed"
        steps.append(helper.make_node("Gather", inputs, [current], name="oodscreen/reverse_channels", axis=3))
    to_float = helper.make_node("Cast", [current], [_FLOAT_INPUT], name="oodscreen/to_float", to=TensorProto.FLOAT)
    steps.append(to_float)
    current = _FLOAT_INPUT
    for op_type, values in (
        ("Mul", preprocessing.scale),
        ("Sub", preprocessing.mean or None),
        ("Div", preprocessing.std or None),
    ):
        if values is None:
            continue
        constant = f"oodscreen/{op_type.lower()}_by"
        # A constant of shape [W, C], because onnxruntime is slow if it broadcasts a constant of shape [C].
        row = np.broadcast_to(np.asarray(values, np.float32), image_shape[1:])
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(row), constant))
        following = f"oodscreen/after_{op_type.lower()}"
        steps.append(helper.make_node(op_type, [current, constant], [following], name=f"oodscreen/{op_type.lower()}"))
        current = following
    if preprocessing.channels_first:
        inputs, current = [current], "oodscreen/channels_first"
        steps.append(helper.make_node("Transpose", inputs, [current], name="oodscreen/transpose", perm=[0, 3, 1, 2]))
    if preprocessing.reshape:
        target = np.array([-1, *preprocessing.reshape], np.int64)
        graph.initializer.append(numpy_helper.from_array(target, "oodscreen/input_shape"))
        inputs, current = [current, "oodscreen/input_shape"], "oodscreen/reshaped"
        steps.append(helper.make_node("Reshape", inputs, [current], name="oodscreen/reshape"))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old.name:
                node.input[index] = current
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*steps, *rest])
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *image_shape]))
    ensure(all(old.name not in node.input for node in graph.node), "no node reads the old input")


def add_noise_functions(model: onnx.ModelProto) -> None:
    """Add the noise functions that the noise nodes call (`export.graph.functions`).

    Requires: all noise nodes have a known kind. Ensures: each kind in use has one function.
    """
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    kinds = {node.op_type for node in _noise_nodes(model)}
    require(kinds <= set(NOISE_KINDS), f"known noise kinds, not {sorted(kinds)}")
    for kind in sorted(kinds):
        model.functions.append(noise_function(kind, opset))
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    ensure({function.name for function in model.functions} == kinds, "each kind in use has one function")


def output_kind_of(model: onnx.ModelProto) -> str:
    """Output kind according to the node that computes the output: `softmax`, `sigmoid`, or "" for any other node."""
    node = last_operation(model)
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(node.op_type, "") if node is not None else ""


def check_written_graph(path: Path) -> None:
    """Check a written file with onnx' checker and shape inference; external weights are not loaded."""
    onnx.checker.check_model(str(path), full_check=True)


def find_feeds(model: onnx.ModelProto, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites, each with `feeds`: the names of the nodes that consume its output.

    A node that only reshapes or transposes the output is replaced by the consumers of its own output. If
    no node consumes the output of a site, `feeds` contains "the output".

    Requires: one noise node with the name of each site. Ensures: the graph is unchanged.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    producers = {node.name: node for node in _noise_nodes(model)}
    require({site.name for site in sites} <= set(producers), "one noise node for each site")
    return tuple(replace(site, feeds=_next_names(producers[site.name].output[0], readers)) for site in sites)


def _next_names(value: str, readers: dict[str, list[onnx.NodeProto]]) -> tuple[str, ...]:
    """Names of the nodes that consume a value; a node that only reshapes or transposes is replaced by its consumers."""
    found: list[str] = []
    for node in readers.get(value, []):
        if node.op_type == "Shape":
            continue
        reshapes = node.op_type in _SHAPE_OPERATORS and node.input[0] == value
        found += _next_names(node.output[0], readers) if reshapes else [node.name]
    return tuple(dict.fromkeys(found)) or ("the output",)


def stamp_metadata(model: onnx.ModelProto, contract: ModelContract) -> None:
    """Write the contract to the metadata of the model.

    Requires: the graph's input and output have the contract's names. Ensures: the contract parsed from the
    metadata equals the given contract.
    """
    require(
        [value.name for value in model.graph.input] == [contract.input_name]
        and [value.name for value in model.graph.output] == [contract.output_name],
        "an input and an output with the names in the contract",
    )
    helper.set_model_props(model, contract.to_metadata())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    ensure(
        ModelContract.from_metadata(metadata, origin="this graph") == contract,
        "the contract in the metadata equals the given contract",
    )


def _noise_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


def _text_attribute(node: onnx.NodeProto, name: str) -> str:
    return str(next(attribute.s.decode() for attribute in node.attribute if attribute.name == name))


def _set_batch_axis(value: onnx.ValueInfoProto) -> None:
    value.type.tensor_type.shape.dim[0].dim_param = "N"
