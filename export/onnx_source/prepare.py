"""Prepare the graph of an ONNX file: one graph of standard operators in float32, whose nodes have unique names.

In: the model of a file, and the output that the user chose. Out: an equivalent model in which functions, and
branches with a constant condition, are inlined; or `ModelRefused`, which names the part of the model that cannot be
exported. Dropout nodes are not changed; later steps add further Dropout nodes to the prepared graph.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import DOMAIN
from export.errors import ModelRefused, OptionRefused
from export.onnx_source.graphs import (
    RANDOM,
    STANDARD,
    Constants,
    all_nodes,
    keep_needed,
    node_lists,
    opset_of,
    rename_values,
    replace_nodes,
    subgraphs_of,
)

FIRST_OPSET = 7
"""Oldest operator set that onnx' version converter reads."""

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "MatMulInteger", "ConvInteger")
"""Names, or first parts of names, of the operators of quantized networks."""

_HALF: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
"""Floating-point types other than float32."""

_WANTED = "a graph of standard ONNX operators in float32"


def prepare(model: onnx.ModelProto, output: str | None, origin: str) -> onnx.ModelProto:
    """A copy of a model, reduced to one output, without functions, unused nodes and branches with a constant condition.

    Args:
        model: the model of a file.
        output: name of the output; None if the model has only one output.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the model uses operators, types or an operator set that cannot be exported, or has dropout in a
            loop or in a branch without a constant condition.
        OptionRefused: the output does not exist, or the model has several outputs and none was chosen.
    """
    _check_opset(model, origin)
    model = _inline_functions(model, origin)
    choose_output(model, output, origin)
    _inputs_with_values_to_constants(model)
    _name_nodes(model.graph)
    _inline_branches(model, origin)
    keep_needed(model.graph, [value.name for value in model.graph.input])
    _name_nodes(model.graph)
    _constants_to_weights(model.graph)
    _check_operators(model, origin)
    _check_types(model, origin)
    del model.graph.value_info[:]
    return model


def choose_output(model: onnx.ModelProto, name: str | None, origin: str) -> None:
    """Remove all outputs of a model except the chosen one.

    Raises:
        OptionRefused: the output does not exist, or the model has several outputs and none was chosen.
    """
    outputs = [value.name for value in model.graph.output]
    if name is None and len(outputs) > 1:
        raise OptionRefused(
            f"{origin} has {len(outputs)} outputs: {', '.join(outputs)}.",
            wanted="the name of one output",
            next_step=f"add --output-layer NAME, for example --output-layer '{outputs[0]}'",
        )
    if name is not None and name not in outputs:
        raise OptionRefused(
            f"--output-layer is {name!r}, but {origin} has no output of this name.",
            wanted=f"one of: {', '.join(outputs)}",
            next_step="give one of these names",
        )
    kept = [value for value in model.graph.output if name in (None, value.name)]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del model.graph.output[:]
    model.graph.output.extend(copies)


def _check_opset(model: onnx.ModelProto, origin: str) -> None:
    known = {*STANDARD, "ai.onnx.ml", *(function.domain for function in model.functions)}
    used = {node.domain for node in all_nodes(model)}
    foreign = sorted(used - known)
    if DOMAIN in used:
        raise ModelRefused(
            f"{origin} contains noise functions of oodscreen, but no contract.",
            wanted="an unmodified file that `oodscreen export` wrote, or a file of another program",
            next_step="export the original model again",
        )
    if "ai.onnx.ml" in used:
        kinds = sorted({node.op_type for node in all_nodes(model) if node.domain == "ai.onnx.ml"})
        raise ModelRefused(
            f"{origin} uses operators of classical machine learning: {', '.join(kinds)}.",
            wanted="a neural network for images",
            next_step="export a network with dropout; trees, linear models and pipelines have no dropout",
        )
    if foreign:
        kinds = sorted({node.op_type for node in all_nodes(model) if node.domain in foreign})
        raise ModelRefused(
            f"{origin} uses operators of the domains {', '.join(foreign)}: {', '.join(kinds)}.",
            wanted=_WANTED,
            next_step="give the file that the exporter wrote, before a program such as onnxruntime optimized it",
        )
    opset = opset_of(model)
    if opset < FIRST_OPSET:
        raise ModelRefused(
            f"{origin} uses operator set {opset}.",
            wanted=f"operator set {FIRST_OPSET} or newer; 12 or newer for active dropout",
            next_step="export the model again with a newer operator set, such as torch.onnx.export(..., "
            "opset_version=18)",
        )


def _inline_functions(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not model.functions:
        return copy
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(copy, True)
    except Exception as error:
        raise ModelRefused(
            f"The functions of {origin} could not be inlined: {error}.",
            wanted="functions that onnx.inliner can inline",
            next_step="export the model without functions: torch.onnx.export(..., export_modules_as_functions=False)",
        ) from error
    calls = {name: node.name for node in model.graph.node if node.domain not in STANDARD for name in node.output}
    for node in inlined.graph.node:
        if node.op_type == "Dropout" and calls.get(node.output[0]):
            node.name = calls[node.output[0]]  # all calls of a function share the names of its nodes
    del inlined.functions[:]
    kept = [entry for entry in inlined.opset_import if entry.domain in STANDARD]
    imports = [helper.make_opsetid("", max(entry.version for entry in kept))]
    del inlined.opset_import[:]
    inlined.opset_import.extend(imports)
    return inlined


def _inputs_with_values_to_constants(model: onnx.ModelProto) -> None:
    """Remove the inputs that have a default value, so that this value becomes a constant."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in graph.input if one.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node of the main graph a unique name."""
    taken: set[str] = set()
    for node in graph.node:
        name = base = node.name or (node.output[0] if node.output else node.op_type)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}#{number}"
        node.name = name
        taken.add(name)


def _inline_branches(model: onnx.ModelProto, origin: str) -> None:
    """Replace each If with a constant condition by the nodes of one branch; refuse dropout in other subgraphs."""
    graph = model.graph
    while any(node.op_type == "If" for node in graph.node):
        constants = Constants(model)
        nodes: list[onnx.NodeProto] = []
        changed = False
        for node in graph.node:
            condition = constants.value(node.input[0]) if node.op_type == "If" else None
            if condition is None or condition.size != 1:
                nodes.append(node)
                continue
            wanted = "then_branch" if bool(condition.reshape(())) else "else_branch"
            branch = next(one.g for one in node.attribute if one.name == wanted)
            _own_names(branch, node.output[0])
            nodes += [*branch.node]
            graph.initializer.extend(branch.initializer)
            nodes += [
                helper.make_node("Identity", [inner.name], [outer], name=f"{node.name}/{outer}")
                for inner, outer in zip(branch.output, node.output, strict=True)
            ]
            changed = True
        if not changed:
            break
        replace_nodes(graph, nodes)
    for node in graph.node:
        for subgraph in subgraphs_of(node):
            _check_subgraph(subgraph, node, origin)


def _own_names(branch: onnx.GraphProto, prefix: str) -> None:
    """Rename the values of a branch, because branches of other If nodes may have values with the same names."""
    values = [name for node in branch.node for name in node.output if name]
    values += [tensor.name for tensor in branch.initializer]
    rename_values(branch, {name: f"{prefix}/{name}" for name in values})


def _check_subgraph(graph: onnx.GraphProto, outer: onnx.NodeProto, origin: str) -> None:
    for node in graph.node:
        if node.op_type == "Dropout" and not node.domain:
            raise ModelRefused(
                f"The dropout {node.name or node.output[0]} of {origin} is within the {outer.op_type} {outer.name}.",
                wanted="dropout outside of loops, and outside of branches without a constant condition",
                next_step="export the model without this branch or loop, for example with a fixed number of steps",
            )
        for inner in subgraphs_of(node):
            _check_subgraph(inner, outer, origin)


def _constants_to_weights(graph: onnx.GraphProto) -> None:
    """Replace the Constant nodes of the main graph by initializers, and store all initializers as raw data."""
    constants = Constants(onnx.ModelProto(graph=graph))
    kept = []
    for node in graph.node:
        value = constants.value(node.output[0]) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    replace_nodes(graph, kept)
    for tensor in graph.initializer:
        if not tensor.raw_data and tensor.data_type != TensorProto.STRING:  # `export.graph.files` handles only raw data
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _check_operators(model: onnx.ModelProto, origin: str) -> None:
    nodes = list(all_nodes(model))
    unknown = sorted({node.op_type for node in nodes if not onnx.defs.has(node.op_type)})
    if unknown:
        raise ModelRefused(
            f"{origin} uses operators that ONNX does not define: {', '.join(unknown)}.",
            wanted=_WANTED,
            next_step="export the model again with standard ONNX operators only",
        )
    quantized = sorted({node.op_type for node in nodes if node.op_type.startswith(_QUANTIZED)})
    if quantized:
        raise ModelRefused(
            f"{origin} is quantized: it uses {', '.join(quantized)}.",
            wanted="the network in float32, because uncertainty is a difference of nearly equal numbers",
            next_step="export the network before its quantization",
        )


def check_noise(model: onnx.ModelProto, origin: str) -> None:
    """Refuse random numbers outside of dropout.

    Raises:
        ModelRefused: a node other than Dropout draws random numbers.
    """
    noise = [node for node in all_nodes(model) if node.op_type in RANDOM]
    if noise:
        names = ", ".join(f"{node.name or node.output[0]} ({node.op_type})" for node in noise[:5])
        raise ModelRefused(
            f"{origin} draws random numbers in operators other than Dropout: {names}.",
            wanted="no random numbers except the masks of dropout, which a run draws itself",
            next_step="replace this noise by torch.nn.Dropout, or switch it off by module.eval() before the export; "
            "the PyTorch layers AlphaDropout and FeatureAlphaDropout, and hand-written masks, use these operators",
        )


def _check_types(model: onnx.ModelProto, origin: str) -> None:
    """Refuse floating-point types other than float32 in weights, inputs and outputs, and casts to half precision."""
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 0}
    for value in (*model.graph.input, *model.graph.output):
        types.add(value.type.tensor_type.elem_type)
    for nodes in node_lists(model):
        types |= {
            attribute.i
            for node in nodes
            if node.op_type == "Cast"
            for attribute in node.attribute
            if attribute.name == "to"
        } - {TensorProto.DOUBLE}
    found = sorted(_HALF[kind] for kind in types if kind in _HALF)
    if found:
        raise ModelRefused(
            f"{origin} computes in {', '.join(found)}.",
            wanted="a network in float32, because uncertainty is a difference of nearly equal numbers",
            next_step="convert the model before the export, in PyTorch with model.float(), and pass an image of type "
            "torch.float32",
        )
