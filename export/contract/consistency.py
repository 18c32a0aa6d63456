"""Check, before the first session run, that an ONNX graph is complete and matches its contract.

In: an ONNX model and its contract. Out: nothing, or `ContractRefused`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from export.contract.metadata import DOMAIN
from export.errors import ContractRefused

if TYPE_CHECKING:
    import onnx

    from export.contract.metadata import ModelContract

_PACKED = (21, 22, 23, 25, 26, 27, 28)
"""Codes of the ONNX data types with less than one byte per element; their elements are stored packed."""


def check_graph(proto: onnx.ModelProto, contract: ModelContract, origin: str) -> None:
    """Check that a graph is complete and that its input, output and sites match the contract. No node is run.

    Args:
        proto: the model.
        contract: the contract in the metadata of the model.
        origin: path of the file, for messages.

    Raises:
        ContractRefused: a tensor is incomplete, an operator or a value is missing, or a name, shape or site does not
            match.
    """
    for tensor in tensors_of(proto):
        if tensor.data_location != tensor.EXTERNAL and not _is_whole(tensor):  # `external` checks the other tensors
            raise _refuse_graph(origin, f"has an incomplete tensor: {tensor.name!r} of shape {list(tensor.dims)}")
    _check_nodes(proto, origin)
    _check_sites(proto, contract, origin)
    inputs = {value.name: value.type.tensor_type for value in proto.graph.input}
    outputs = {value.name: value.type.tensor_type for value in proto.graph.output}
    if contract.input_name not in inputs or contract.output_name not in outputs:
        raise _refuse_graph(
            origin,
            f"has the inputs {sorted(inputs)} and the outputs {sorted(outputs)}, but its contract names the input "
            f"{contract.input_name!r} and the output {contract.output_name!r}",
        )
    for found, wanted in (
        (_sizes(inputs[contract.input_name]), contract.image_shape),
        (_sizes(outputs[contract.output_name]), (contract.classes,)),
    ):
        if any(one not in (size, None) for one, size in zip(found[1:], wanted, strict=False)) or min(wanted) < 1:
            raise _refuse_graph(
                origin,
                f"has an input or output of shape {list(found)}, but its contract states {[None, *wanted]}",
            )


def _check_sites(proto: onnx.ModelProto, contract: ModelContract, origin: str) -> None:
    """Check that the noise nodes of the graph are the sites of the contract, of the same kinds and rates."""
    from onnx import helper

    in_graph = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            in_graph[node.name] = (node.op_type, float(attributes.get("rate", math.nan)))
    stated = {site.name: (site.kind, site.rate) for site in contract.sites}
    for name in sorted({*in_graph, *stated}):
        own, wanted = in_graph.get(name), stated.get(name)
        if own is None or wanted is None or own[0] != wanted[0] or not math.isclose(own[1], wanted[1], rel_tol=1e-6):
            found, claimed = ("nothing" if one is None else f"{one[0]} with rate {one[1]:g}" for one in (own, wanted))
            raise _refuse_graph(origin, f"has {found} at the dropout site {name!r}, but its contract states {claimed}")


def _check_nodes(proto: onnx.ModelProto, origin: str) -> None:
    """Check that ONNX defines every standard operator, and that each value is computed before a node reads it."""
    import onnx

    available = {value.name for value in proto.graph.input} | {tensor.name for tensor in proto.graph.initializer}
    available.add("")  # an optional input that is omitted
    for node in proto.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            raise _refuse_graph(origin, f"uses the operator {node.op_type!r}, which ONNX does not define")
        missing = next((name for name in node.input if name not in available), None)
        if missing is not None:
            raise _refuse_graph(
                origin,
                f"has a node {node.name!r} that reads {missing!r}, which is not an input, "
                "a weight or the output of an earlier node",
            )
        available.update(node.output)


def _refuse_graph(origin: str, found: str) -> ContractRefused:
    return ContractRefused(
        f"{origin} {found}.",
        wanted="a complete and unmodified file that was written by `oodscreen export`",
        next_step="copy the file again, or export the model again",
    )


def _sizes(kind: onnx.TypeProto.Tensor) -> tuple[int | None, ...]:
    """The shape of a tensor; None for a dynamic axis."""
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)


def _is_whole(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor contains its values.

    The number of raw bytes must match the shape, except for packed types. Typed fields must contain at least one value,
    unless the shape has a size of 0.
    """
    if tensor.HasField("raw_data"):
        size = size_in_bytes(tensor)
        return size is not None and (len(tensor.raw_data) == size or tensor.data_type in _PACKED)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    return math.prod(tensor.dims) == 0 or any((*fields, tensor.uint64_data, tensor.string_data))


def size_in_bytes(tensor: onnx.TensorProto) -> int | None:
    """Size of a tensor's values in bytes, unpacked; None for a data type that ONNX does not define."""
    import onnx

    try:
        return math.prod(tensor.dims) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        return None


def tensors_of(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor in an ONNX message at any depth: initializers, attributes, functions and subgraphs."""
    from google.protobuf.message import Message

    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for one in [value] if isinstance(value, Message) else value:
                yield from tensors_of(one)
