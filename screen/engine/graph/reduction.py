"""Reduce P passes to statistics, inside the graph: only `[B, C]` and `[B]` leave the session.

In: the head's output, `[P * B, C]`. Out: names of the outputs, from `STATISTICS`.

Entropies need the logarithm of each pass' probabilities. It comes from `LogSoftmax` on the logits
where the graph has them: that kernel treats each row alike, wherever it lies in the batch, while
onnxruntime's `Log` on the CPU differs in the last bit between the body and the tail of a buffer
(see tests/assumptions), and a row's result must not depend on its neighbours. For the same reason the
sum over classes is left to the host: `ReduceSum` over the last axis starts where memory is aligned.
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

_SMALLEST = 1e-37


def add_statistics(
    builder: GraphBuilder, whole: onnx.GraphProto, contract: ModelContract, *, raw: bool
) -> dict[str, list[str | int | None]]:
    """Append the reduction over the passes of a run.

    Outputs, by name:
        MEAN `[B, C]`: mean over passes of the probabilities (of the values, for a regression).
        M2, M3, M4 `[B, C]`: sums over passes of the 2nd to 4th power of the deviation from MEAN.
        VOTES `[B, C]`: how many passes chose this class (for a sigmoid: said yes).
        ENTROPY `[B, C]` (for a sigmoid `[B, C, 2]`): sum over passes of `-p ln p`, in nats.
        ENERGY `[B]`: sum over passes of `-logsumexp(logits)` (Liu et al. 2020, eq. 4, T = 1).

    Args:
        builder: the head so far; it holds the model's output, folded.
        whole: the exported graph, to look behind its last node.
        contract: for the kind of output.
        raw: give every pass, `[P, B, C]`, as RAW_OUTPUT and nothing else.

    Returns:
        The shape of each output, by its name.
    """
    kind = contract.output_kind
    output = contract.output_name
    logits = _find_logits(whole, contract)
    if kind == "logits":
        output = builder.add("Softmax", [output], axis=-1)
    values = builder.unfold(output)
    if raw:
        builder.add("Identity", [values], RAW_OUTPUT)
        return {RAW_OUTPUT: ["P", "B", contract.classes]}

    each: list[str | int | None] = ["B", contract.classes]
    outputs = {MEAN: each, M2: each, M3: each, M4: each}
    _add_moments(builder, values)
    if kind in ("softmax", "logits"):
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
    elif kind == "sigmoid":
        said_yes = builder.add("Greater", [values, builder.constant(0.5, np.float32)])
        _sum_passes(builder, builder.add("Cast", [said_yes], to=TensorProto.FLOAT), VOTES)
        outputs |= {VOTES: each, ENTROPY: [*each, 2]}
        _sum_entropy_terms(builder, *_both_answers(builder, output, logits))
    return outputs


def _add_moments(builder: GraphBuilder, values: str) -> None:
    """Deviations from the run's own mean, not raw powers: a std of 1e-4 at 0.9999 stays right."""
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


def _both_answers(builder: GraphBuilder, output: str, logits: str) -> tuple[str, str]:
    """Probabilities of yes and no, `[P * B, C, 2]`, and their logarithms.

    A sigmoid is a softmax over the logits (z, 0).
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
    """The logarithm where there are no logits: in float64, whose last bit float32 does not see."""
    floor = builder.add("Max", [probabilities, builder.constant(_SMALLEST, np.float32)])
    double = builder.add("Log", [builder.add("Cast", [floor], to=TensorProto.DOUBLE)])
    return builder.add("Cast", [double], to=TensorProto.FLOAT)


def _find_logits(whole: onnx.GraphProto, contract: ModelContract) -> str:
    """Name of the values in front of a last Softmax or Sigmoid; "" where there are none."""
    if contract.output_kind == "logits":
        return contract.output_name
    maker = {name: node for node in whole.node for name in node.output}
    node = maker[contract.output_name]
    while node.op_type == "Identity":
        node = maker[node.input[0]]
    if contract.output_kind == "sigmoid" and node.op_type == "Sigmoid":
        return str(node.input[0])
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), -1)
    if contract.output_kind == "softmax" and node.op_type == "Softmax" and axis in (-1, 1):
        return str(node.input[0])
    return ""
