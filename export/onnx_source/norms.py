"""Put the Dropout and BatchNormalization nodes of an ONNX model into inference mode.

In: a model with functions and subgraphs, or a prepared model. Out: the model, changed in place, and notices; or
`ModelRefused` if the running statistics of a BatchNormalization cannot be used.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.errors import ModelRefused
from export.onnx_source.graphs import Constants, all_nodes, attributes_of


def silence_dropout(model: onnx.ModelProto) -> None:
    """Remove the training mode of all Dropout nodes, at any depth, so that each node returns its input."""
    for node in all_nodes(model):
        if node.op_type == "Dropout" and not node.domain:
            del node.input[1:], node.output[1:]
            kept = [one for one in node.attribute if one.name == "ratio"]  # an attribute before operator set 12
            copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
            del node.attribute[:]
            node.attribute.extend(copies)


def norms_to_inference(model: onnx.ModelProto) -> int:
    """Put all BatchNormalization nodes, at any depth, into inference mode, and return the number of changed nodes."""
    changed = 0
    for node in all_nodes(model):
        if not _in_training(node):
            continue
        changed += 1
        kept = [one for one in node.attribute if one.name != "training_mode"]
        copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
        del node.attribute[:], node.output[1:]
        node.attribute.extend(copies)
    return changed


def check_norms(model: onnx.ModelProto, origin: str) -> tuple[str, ...]:
    """A notice if BatchNormalization nodes of a prepared model are in training mode; else empty.

    Raises:
        ModelRefused: the running statistics of one of these nodes are not constants or have their initial values, or
            other nodes read its batch statistics.
    """
    training = [node for node in model.graph.node if _in_training(node)]
    constants = Constants(model)
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in training:
        mean, variance = constants.value(node.input[3]), constants.value(node.input[4])
        reason = ""
        if mean is None or variance is None:
            reason = "its running mean and variance are not constants"
        elif not np.any(mean) and np.all(variance == 1):
            reason = "its running mean and variance have their initial values 0 and 1"
        elif any(name in read for name in node.output[1:] if name):
            reason = "other nodes read its batch statistics"
        if reason:
            raise ModelRefused(
                f"The BatchNormalization {node.name} of {origin} is in training mode, and {reason}.",
                wanted="BatchNormalization in inference mode, with the statistics of the training",
                next_step="call model.eval() before the export, and switch only the dropout on: [m.train() for m in "
                "model.modules() if isinstance(m, torch.nn.Dropout)]; with dynamo=False, add "
                "training=torch.onnx.TrainingMode.PRESERVE",
            )
    if not training:
        return ()
    return (
        f"{len(training)} BatchNormalization node(s) of {origin} in training mode: the export puts these nodes into "
        "inference mode, with the running statistics in the file",
    )


def _in_training(node: onnx.NodeProto) -> bool:
    if node.op_type != "BatchNormalization" or node.domain:
        return False
    return bool(attributes_of(node).get("training_mode", 0)) or len([name for name in node.output if name]) > 1
