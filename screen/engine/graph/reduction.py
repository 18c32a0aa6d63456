"""Reduce P passes to statistics inside the graph, so that the session's outputs have no pass axis.

In: the head's output, `[P * B, C]`. Out: names and shapes of the statistics outputs.

Entropies need the logarithms of each pass's probabilities. If the graph has logits, `LogSoftmax` computes these
logarithms: its kernel computes a row in the same way at every position in the batch. The results of onnxruntime's `Log`
on the CPU differ in the last bit between the body and the tail of a buffer (see tests/assumptions), and a row's result
must not depend on the other rows. For the same reason, the host computes sums over classes: the summation order of
`ReduceSum` over the last axis depends on memory alignment.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.contract.metadata import ModelContract
from screen.engine.graph.builder import PREFIX, GraphBuilder

RAW_OUTPUT = PREFIX + "raw"
MEAN = PREFIX + "mean"
M2, M3, M4 = PREFIX + "m2", PREFIX + "m3", PREFIX + "m4"
VOTES = PREFIX + "votes"
ENTROPY = PREFIX + "entropy"
ENERGY = PREFIX + "energy"

_MIN_PROBABILITY = 1e-37


def add_statistics(
    builder: GraphBuilder, exported: onnx.GraphProto, contract: ModelContract, *, raw: bool
) -> dict[str, list[str | int | None]]:
    """Append the nodes that reduce the passes of one session run to statistics.

    Outputs, by name:
        MEAN `[B, C]`: mean over passes of the probabilities (of the values, for a regression).
        M2, M3, M4 `[B, C]`: sums over passes of the 2nd, 3rd and 4th power of the deviation from MEAN.
        VOTES `[B, C]`: number of passes that predict the class (without classes: with a probability above 0.5).
        ENTROPY `[B, C]` (without classes `[B, C, 2]`): sum over passes of `-p ln p`, nats.
        ENERGY `[B]`: sum over passes of `-logsumexp(logits)` (Liu et al. 2020, eq. 4, temperature 1), nats.

    Args:
        builder: builder of the head, with the nodes up to the model's output, `[P * B, C]`.
        exported: the exported graph, in which the logits are searched for.
        contract: the model's contract, with the output kind.
        raw: output the values of every pass as RAW_OUTPUT, `[P, B, C]`, and no statistics.

    Returns:
        The shape of each output, by name.
    """
    task = contract.task
    output = contract.output_name
    logits = _find_logits(exported, contract)
    if contract.output_kind == "logits":
        output = builder.add("Softmax", [output], axis=-1) if task == "classes" else builder.add("Sigmoid", [output])
    values = builder.unfold(output)
    if raw:
        builder.add("Identity", [values], RAW_OUTPUT)
        return {RAW_OUTPUT: ["P", "B", contract.classes]}

    each: list[str | int | None] = ["B", contract.classes]
    outputs = {MEAN: each, M2: each, M3: each, M4: each}
    _add_moments(builder, values)
    if task == "classes":
        chosen = builder.add("ArgMax", [values], axis=2, keepdims=0)
        on_off = builder.constant([0, 1], np.float32)
        depth = builder.constant(contract.classes)
        _sum_passes(builder, builder.add("OneHot", [chosen, depth, on_off], axis=-1), VOTES)
        log = builder.add("LogSoftmax", [logits], axis=-1) if logits else _log(builder, output)
        outputs |= {VOTES: each, ENTROPY: each}
        _sum_entropy_terms(builder, output, log)
        if logits:
            # logsumexp(z) = max(z) - max(log_softmax(z)), and energy is its negative.
            tops = [builder.add("ReduceMax", [name, builder.constant([-1])], keepdims=0) for name in (log, logits)]
            _sum_passes(builder, builder.unfold(builder.add("Sub", tops)), ENERGY)
            outputs[ENERGY] = ["B"]
    elif task != "values":
        positive = builder.add("Greater", [values, builder.constant(0.5, np.float32)])
        _sum_passes(builder, builder.add("Cast", [positive], to=TensorProto.FLOAT), VOTES)
        outputs |= {VOTES: each, ENTROPY: [*each, 2]}
        _sum_entropy_terms(builder, *_binary_probabilities(builder, output, logits))
    return outputs


def _add_moments(builder: GraphBuilder, values: str) -> None:
    """Add the mean and the sums of central powers over passes.

    With sums of raw powers, cancellation would remove a standard deviation of 1e-4 around a mean of 0.9999.
    """
    add, axis = builder.add, builder.constant([0])
    add("ReduceMean", [values, axis], MEAN, keepdims=0)
    deviation = add("Sub", [values, MEAN])
    square = add("Mul", [deviation, deviation])
    _sum_passes(builder, square, M2)
    _sum_passes(builder, add("Mul", [square, deviation]), M3)
    _sum_passes(builder, add("Mul", [square, square]), M4)


def _sum_passes(builder: GraphBuilder, values: str, output: str) -> None:
    builder.add("ReduceSum", [values, builder.constant([0])], output, keepdims=0)


def _sum_entropy_terms(builder: GraphBuilder, probabilities: str, log: str) -> None:
    terms = builder.add("Neg", [builder.add("Mul", [probabilities, log])])
    _sum_passes(builder, builder.unfold(terms), ENTROPY)


def _binary_probabilities(builder: GraphBuilder, output: str, logits: str) -> tuple[str, str]:
    """Probabilities of each label and of its complement, `[P * B, C, 2]`, and their logarithms.

    A sigmoid of z is a softmax over the logits (z, 0).
    """
    if logits:
        column = builder.add("Unsqueeze", [logits, builder.constant([-1])])
        zeros = builder.add("Sub", [column, column])
        log = builder.add("LogSoftmax", [builder.add("Concat", [column, zeros], axis=-1)], axis=-1)
        return builder.add("Exp", [log]), log
    no = builder.add("Sub", [builder.constant(1.0, np.float32), output])
    columns = [builder.add("Unsqueeze", [name, builder.constant([-1])]) for name in (output, no)]
    both = builder.add("Concat", columns, axis=-1)
    return both, _log(builder, both)


def _log(builder: GraphBuilder, probabilities: str) -> str:
    """The logarithm of probabilities, in float64: differences in its last bit vanish when it is rounded to float32."""
    floor = builder.add("Max", [probabilities, builder.constant(_MIN_PROBABILITY, np.float32)])
    double = builder.add("Log", [builder.add("Cast", [floor], to=TensorProto.DOUBLE)])
    return builder.add("Cast", [double], to=TensorProto.FLOAT)


def _find_logits(exported: onnx.GraphProto, contract: ModelContract) -> str:
    """Name of the logits: an output of logits, or the input of the final Softmax or Sigmoid; "" if there are none."""
    if contract.output_kind == "logits":
        return contract.output_name
    producer = {name: node for node in exported.node for name in node.output}
    node = producer[contract.output_name]
    while node.op_type == "Identity":
        node = producer[node.input[0]]
    if contract.output_kind == "sigmoid" and node.op_type == "Sigmoid":
        return str(node.input[0])
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), -1)
    if contract.output_kind == "softmax" and node.op_type == "Softmax" and axis in (-1, 1):
        return str(node.input[0])
    return ""
