"""Mark the kept Dropout nodes of a prepared graph as sites, and replace marked nodes by other nodes.

In: a prepared graph and the kept dropouts. Out: a graph with one custom node for each site, to which
`export.graph.passes` adds a noise function; or a copy of this graph without noise, or with the factors of the masks as
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto, helper

from export.contract.metadata import DOMAIN
from export.onnx_source.dropouts import Kept
from export.onnx_source.graphs import all_nodes, attributes_of, replace_nodes


def mark_sites(model: onnx.ModelProto, kept: Sequence[Kept]) -> onnx.ModelProto:
    """A copy of a model: `oodscreen` nodes replace the kept Dropout nodes, and Identity nodes replace the others."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    by_node = {one.node: one for one in kept}
    nodes = []
    for node in copy.graph.node:
        if node.op_type != "Dropout" or node.domain:
            nodes.append(node)
            continue
        ends = [node.input[0]], [node.output[0]]
        if node.name in by_node:
            one = by_node[node.name]
            nodes.append(helper.make_node(one.kind, *ends, name=node.name, domain=DOMAIN, rate=one.rate, site=one.name))
        else:
            nodes.append(helper.make_node("Identity", *ends, name=node.name))
    replace_nodes(copy.graph, nodes)
    _remove_notes(copy)
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy


def _remove_notes(model: onnx.ModelProto) -> None:
    """Remove comments and metadata of the exporter, such as stack traces with paths of the user's machine."""
    for node in all_nodes(model):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for holder in (model, model.graph):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def site_of(node: onnx.NodeProto) -> str:
    """Name of the site of a marked node; "" for any other node."""
    return str(attributes_of(node)["site"].decode()) if node.domain == DOMAIN else ""


def without_marks(model: onnx.ModelProto, *, weights: bool = True) -> onnx.ModelProto:
    """A copy of a marked model with an Identity node for each site; without initializers if `weights` is false."""

    def pass_on(node: onnx.NodeProto, _: str) -> onnx.NodeProto:
        return helper.make_node("Identity", node.input, node.output, name=node.name)

    return _replace_marks(model, pass_on, weights=weights)


def with_factors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a marked model in which each site multiplies its input by the graph input `factor_name(site)`."""
    copy = _replace_marks(
        model,
        lambda node, site: helper.make_node("Mul", [node.input[0], factor_name(site)], node.output, name=node.name),
    )
    for node in model.graph.node:
        if site := site_of(node):
            copy.graph.input.append(helper.make_tensor_value_info(factor_name(site), TensorProto.FLOAT, None))
    return copy


def factor_name(site: str) -> str:
    """Name of the graph input for the factors of a site."""
    return f"oodscreen/factor/{site}"


def _replace_marks(
    model: onnx.ModelProto, make: Callable[[onnx.NodeProto, str], onnx.NodeProto], *, weights: bool = True
) -> onnx.ModelProto:
    """A copy of a marked model in which `make(marked node, name of the site)` replaces each marked node."""
    nodes = [make(node, site) if (site := site_of(node)) else node for node in model.graph.node]
    initializers = model.graph.initializer if weights else ()
    graph = helper.make_graph(nodes, "source", model.graph.input, model.graph.output, initializers)
    copy = helper.make_model(graph, opset_imports=[one for one in model.opset_import if one.domain != DOMAIN])
    copy.ir_version = model.ir_version
    return copy
