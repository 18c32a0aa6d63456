"""Whether an ONNX file is whole, and the one that its contract speaks of, before anything is run.

In: a model as it was read, and its contract. Out: nothing, or a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from export.errors import ContractRefused

if TYPE_CHECKING:
    import onnx

    from export.contract.metadata import ModelContract

_PACKED = (21, 22, 23, 25, 26, 27, 28)
"""ONNX types of less than a byte, several of which share one."""


def check_graph(proto: onnx.ModelProto, contract: ModelContract, origin: str) -> None:
    """Whether the graph is the one that its contract speaks of, and brings all the weights that are to be in it.

    Raises:
        ContractRefused: it is not; nothing was run.
    """
    for tensor in tensors_of(proto):
        if tensor.data_location != tensor.EXTERNAL and not _is_whole(tensor):  # others: see `export.contract.external`
            raise _refuse_graph(origin, f"has a tensor {tensor.name!r} of {list(tensor.dims)} without all its numbers")
    _check_nodes(proto, origin)
    inputs = {value.name: value.type.tensor_type for value in proto.graph.input}
    outputs = {value.name: value.type.tensor_type for value in proto.graph.output}
    if contract.input_name not in inputs or contract.output_name not in outputs:
        raise _refuse_graph(
            origin,
            f"has inputs {sorted(inputs)} and outputs {sorted(outputs)}, while its contract speaks of "
            f"{contract.input_name!r} and {contract.output_name!r}",
        )
    for found, wanted in (
        (_sizes(inputs[contract.input_name]), contract.image_shape),
        (_sizes(outputs[contract.output_name]), (contract.classes,)),
    ):
        if any(one not in (size, None) for one, size in zip(found[1:], wanted, strict=False)) or min(wanted) < 1:
            raise _refuse_graph(origin, f"has a tensor of {list(found)}, while its contract speaks of {list(wanted)}")


def _check_nodes(proto: onnx.ModelProto, origin: str) -> None:
    """Every node must be of a known operator, and take what something in front of it makes."""
    import onnx

    made = {value.name for value in proto.graph.input} | {tensor.name for tensor in proto.graph.initializer}
    made.add("")  # an input that is left out
    for node in proto.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            raise _refuse_graph(origin, f"has the operator {node.op_type!r}, which ONNX does not know")
        missing = next((name for name in node.input if name not in made), None)
        if missing is not None:
            raise _refuse_graph(
                origin, f"has a node {node.name!r} that takes {missing!r}, which nothing before it makes"
            )
        made.update(node.output)


def _refuse_graph(origin: str, found: str) -> ContractRefused:
    return ContractRefused(
        f"{origin} {found}.",
        wanted="a whole model in one file, as `oodscreen export` writes it",
        next_step="export the model again, or copy the file again",
    )


def _sizes(kind: onnx.TypeProto.Tensor) -> tuple[int | None, ...]:
    """The sizes of a tensor; None where one is open."""
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)


def _is_whole(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor brings as many numbers as its shape claims."""
    if tensor.HasField("raw_data"):
        size = size_in_bytes(tensor)
        return size is not None and (len(tensor.raw_data) == size or tensor.data_type in _PACKED)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    return math.prod(tensor.dims) == 0 or any((*fields, tensor.uint64_data, tensor.string_data))


def size_in_bytes(tensor: onnx.TensorProto) -> int | None:
    """What the numbers of a tensor take, none of them packed; None for a type that ONNX does not know."""
    import onnx

    try:
        return math.prod(tensor.dims) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        return None


def tensors_of(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor within an ONNX message, however deep: initializers, attributes, functions, graphs in graphs."""
    from google.protobuf.message import Message

    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for kind, value in message.ListFields():
        if kind.message_type is not None:
            for one in [value] if isinstance(value, Message) else value:
                yield from tensors_of(one)
