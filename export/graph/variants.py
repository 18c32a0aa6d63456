"""Variants of a finished graph with which `export.proof` measures it.

In: a finished graph, which is not changed. Out: copies with other rates, with additional outputs, with the noise as
inputs, or with only the sites.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from export.contract.metadata import DOMAIN, Site
from export.graph.conditions import require

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that keep the order of the values."""


def with_rate(model: onnx.ModelProto, rate: float) -> onnx.ModelProto:
    """A copy of a graph with the given rate at every site; with rate 0, the noise functions return their inputs."""
    copy = _copy(model)
    for node in _site_nodes(copy).values():
        for attribute in node.attribute:
            if attribute.name == "rate":
                attribute.f = rate
    return copy


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph with additional float32 outputs."""
    copy = _copy(model)
    present = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    for name in dict.fromkeys(names):
        if name not in present:
            copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


def with_noise_as_inputs(model: onnx.ModelProto, sites: Sequence[Site]) -> onnx.ModelProto:
    """A copy of a graph in which the node of each site computes `x * factor + shift` from two new inputs.

    These inputs have the names `factor_input(name)` and `shift_input(name)` and the shape `[N, *site.shape]`.

    Requires: one node for each site.
    """
    copy = _copy(model)
    nodes = _site_nodes(copy)
    require(set(nodes) == {site.name for site in sites}, "one noise node for each site")
    rebuilt: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.name not in nodes:
            rebuilt.append(node)
            continue
        scaled = f"{node.name}/scaled"
        rebuilt.append(helper.make_node("Mul", [node.input[0], factor_input(node.name)], [scaled], name=scaled))
        rebuilt.append(helper.make_node("Add", [scaled, shift_input(node.name)], list(node.output), name=node.name))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rebuilt]
    del copy.graph.node[:], copy.functions[:]
    copy.graph.node.extend(kept)
    for site in sites:
        for name in (factor_input(site.name), shift_input(site.name)):
            copy.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *site.shape]))
    return copy


def factor_input(site: str) -> str:
    """Name of the input for the factor of a site."""
    return f"{site}/factor"


def shift_input(site: str) -> str:
    """Name of the input for the shift of a site."""
    return f"{site}/shift"


def only_sites(model: onnx.ModelProto, sites: Sequence[Site]) -> onnx.ModelProto:
    """A graph that contains only the nodes of the sites and their functions; each node has its own input and output.

    The input of a site has the name of the site and any number of rows; the output has the suffix `/drawn`.

    Requires: one node for each site.
    """
    nodes = _site_nodes(model)
    require(set(nodes) == {site.name for site in sites}, "one noise node for each site")
    alone, inputs, outputs = [], [], []
    for index, site in enumerate(sites):
        node = onnx.NodeProto.FromString(nodes[site.name].SerializeToString())
        del node.input[:], node.output[:]
        node.input.append(site.name)
        node.output.append(drawn_output(site.name))
        alone.append(node)
        shape: list[str | None] = [f"rows_{index}", *(None for _ in site.shape)]
        inputs.append(helper.make_tensor_value_info(site.name, TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(drawn_output(site.name), TensorProto.FLOAT, None))
    graph = helper.make_graph(alone, "sites", inputs, outputs)
    reduced = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    reduced.ir_version = model.ir_version
    return reduced


def drawn_output(site: str) -> str:
    """Name of the output of a site in `only_sites`."""
    return f"{site}/drawn"


def site_values(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """For each site, by its name, the names of the input and of the output of its node."""
    return {name: (node.input[0], node.output[0]) for name, node in _site_nodes(model).items()}


def seeded_nodes(model: onnx.ModelProto) -> list[str]:
    """Names, or types if a name is empty, of the operations with a `seed`, in the graph and in its functions."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return [node.name or node.op_type for node in nodes if any(one.name == "seed" for one in node.attribute)]


def value_before_activation(model: onnx.ModelProto) -> str | None:
    """Name of the value from which a softmax or sigmoid computes the output; else None.

    The output may have another shape than this value, if the operations between the two values only reshape.
    """
    node = _computed_by(model, ("Identity", "Cast", *_RESHAPES))
    return node.input[0] if node is not None and node.op_type in ("Sigmoid", "Softmax") else None


def last_operation(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The node that computes the output; nodes that only cast or copy are skipped. None if no node computes it."""
    return _computed_by(model, ("Identity", "Cast"))


def _computed_by(model: onnx.ModelProto, skipped: Sequence[str]) -> onnx.NodeProto | None:
    """The node that computes the output; nodes of `skipped` operators are skipped. None if no node computes it."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in skipped:
        node = producers.get(node.input[0])
    return node


def _site_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node if node.domain == DOMAIN}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
