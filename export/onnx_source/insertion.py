"""Insert dropout into the graph of an ONNX file: find the nodes before which it can be inserted, and insert it.

In: a prepared graph and the values of `--insert-dropout`. Out: a `Place` for each node; or the graph with inserted
Dropout nodes, and a `Kept` for each inserted node. In an ONNX file, each node is a layer. The path of a linear
node, such as a Conv, is the name of its PyTorch module, if the exporter wrote this name. Other paths are names of
nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from export.contract.insertion import Insertion
from export.contract.metadata import INSERTED
from export.onnx_source.dropouts import Kept, module_of, printable, scopes_of
from export.onnx_source.graphs import Constants, producers_of, read_by, replace_nodes, subgraphs_of
from export.source.insertion.layers import PREFIX, choose_places
from export.source.insertion.places import Place

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply an input by weights, if their other input is a constant."""

_WEIGHT = ".weight"
"""End of the name of a module's weights in PyTorch; the path of the module precedes it."""


def find_places(model: onnx.ModelProto) -> tuple[Place, ...]:
    """A `Place` for each node that has an input other than constants, in the order of the graph.

    Args:
        model: prepared model, whose nodes have unique names.
    """
    types, shapes = _types_and_shapes(model)
    constants = Constants(model)
    names = _names_of(model.graph)
    real = {node.name: _real_inputs(node, constants) for node in model.graph.node}
    linear = {node.name for node in model.graph.node if _is_linear(node, real[node.name])}
    last = _nodes_before_output(model.graph, stop_at=linear) & linear
    return tuple(
        Place(
            path=names[node.name],
            kind=node.op_type,
            shape=shapes.get(real[node.name][0], ()) if real[node.name] else (),
            has_weights=node.name in linear,
            makes_outputs=node.name in last,
            problem=_problem_of(node, real[node.name], types),
        )
        for node in model.graph.node
        if real[node.name]
    )


def insert_dropouts(model: onnx.ModelProto, insertions: Sequence[Insertion], origin: str) -> tuple[Kept, ...]:
    """Insert a Dropout node before each chosen node, in place, and return a `Kept` for each inserted node.

    Args:
        model: prepared model, whose nodes have unique names.
        insertions: the user's choice.
        origin: name of the model, for messages.

    Raises:
        OptionRefused: a name does not belong to exactly one node, or dropout cannot be inserted before this node.
    """
    constants = Constants(model)
    by_path = {path: name for name, path in _names_of(model.graph).items()}
    chosen = choose_places(find_places(model), insertions, origin) if insertions else ()
    kept = tuple(
        Kept(PREFIX + printable(place.path), PREFIX + by_path[place.path], rate, INSERTED) for place, rate in chosen
    )
    added = {by_path[place.path]: one for (place, _), one in zip(chosen, kept, strict=True)}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in added:
            one = added[node.name]
            (value,) = _real_inputs(node, constants)
            ratio, mode, output = (f"{one.node}/{part}" for part in ("ratio", "training_mode", "output"))
            model.graph.initializer.append(helper.make_tensor(ratio, TensorProto.FLOAT, [], [one.rate]))
            model.graph.initializer.append(helper.make_tensor(mode, TensorProto.BOOL, [], [True]))
            nodes.append(helper.make_node("Dropout", [value, ratio, mode], [output], name=one.node))
            for index, name in enumerate(node.input):
                node.input[index] = output if name == value else name
        nodes.append(node)
    replace_nodes(model.graph, nodes)
    return kept


def _names_of(graph: onnx.GraphProto) -> dict[str, str]:
    """The path of each node, by its name: `_module_or_name`, or its own name if several nodes have the same module."""
    modules = {node.name: _module_or_name(node) for node in graph.node}
    counts = Counter(modules.values())
    return {name: module if counts[module] == 1 else name for name, module in modules.items()}


def _module_or_name(node: onnx.NodeProto) -> str:
    """Name of the module for a linear node; for any other node, the name of the node.

    PyTorch's newer exporter combines a linear node and the batch normalization after it into one node, with the scopes
    of the normalization. Dropout before this node precedes the linear module, and the names of the weights begin with
    the path of this module.
    """
    if node.op_type not in _LINEAR:
        return node.name
    if "batch_norm" in "".join(scopes_of(node)[-1:]):
        owners = [name.removesuffix(_WEIGHT) for name in node.input if name.endswith(_WEIGHT)]
        return owners[0] if owners else node.name
    return module_of(node, _LINEAR)


def _real_inputs(node: onnx.NodeProto, constants: Constants) -> list[str]:
    """Names of the inputs of a node that are not constants, without repetitions."""
    return [name for name in dict.fromkeys(node.input) if name and constants.value(name) is None]


def _is_linear(node: onnx.NodeProto, real: Sequence[str]) -> bool:
    return node.op_type in _LINEAR and not node.domain and len(real) == 1


def _nodes_before_output(graph: onnx.GraphProto, stop_at: set[str]) -> set[str]:
    """Names of the nodes on which the output depends, back to the nodes in `stop_at`."""
    producers = producers_of(graph)
    found: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if node.name not in stop_at:
            waiting += read_by(node)
    return found


def _types_and_shapes(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Types and shapes by name of the values for which ONNX infers them; the shapes do not include the first axis."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types, shapes = {}, {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
        shapes[value.name] = sizes[1:] if all(sizes[1:]) else ()
    return types, shapes


def _problem_of(node: onnx.NodeProto, real: Sequence[str], types: dict[str, int]) -> str:
    """The reason why dropout cannot be inserted before a node; "" if it can."""
    if node.op_type == "Dropout" and not node.domain:
        return "the node draws noise itself"
    if subgraphs_of(node):
        return "the node contains other nodes"
    if len(real) != 1:
        return f"the node has {len(real)} inputs that are not constants"
    if types.get(real[0], TensorProto.FLOAT) != TensorProto.FLOAT:
        return "the input of the node does not have the type float32"
    return ""
