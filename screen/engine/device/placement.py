"""Test that a session runs its nodes on a GPU, apart from shape arithmetic.

In: a session and its graph. Out: nothing, or an `OptionRefused` with the names of the nodes on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from export.errors import OptionRefused
from screen.engine.device.provider import PROVIDERS, Device


def misplaced_nodes(model: onnx.ModelProto, on_cpu: Iterable[str]) -> list[str]:
    """Nodes on the CPU that are not shape arithmetic, each as "name (operator)".

    onnxruntime places integer arithmetic on shapes on the CPU by design.

    Args:
        model: the session's graph.
        on_cpu: names of the nodes that onnxruntime placed on the CPU.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    names = set(on_cpu)
    return [
        f"{node.name} ({node.op_type})"
        for node in model.graph.node
        if node.name in names and any(types.get(name) not in _INTEGERS for name in node.output if name)
    ]


_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)


def require_placement(model: onnx.ModelProto, session: Any, device: Device) -> None:
    """Refuse a session that does not run entirely on its GPU, apart from shape arithmetic.

    Args:
        model: the session's graph.
        session: the onnxruntime session.
        device: the GPU.

    Raises:
        OptionRefused: the session does not have the execution provider of the device, or onnxruntime placed nodes other
            than shape arithmetic on the CPU.
    """
    assigned = session.get_provider_graph_assignment_info()
    on_cpu = [node.name for group in assigned if group.ep_name == PROVIDERS["cpu"] for node in group.get_nodes()]
    misplaced = misplaced_nodes(model, on_cpu)
    if PROVIDERS[device.name] not in session.get_providers() or misplaced:
        placed = f"onnxruntime placed {len(misplaced)} node(s) on the CPU: {', '.join(misplaced[:5])}"
        without_cuda = "the session has no CUDA execution provider"
        raise OptionRefused(
            f"The model does not run entirely on {device.label}: {placed if misplaced else without_cuda}.",
            wanted="every node on the GPU, apart from shape arithmetic",
            next_step="use --device cpu, or replace these operators in the model",
        )
