"""Probabilities of a model's outputs: conversion of logits, and a test of values that should be probabilities.

In: outputs `[B, C]`, and what they mean. Out: probabilities `[B, C]`, or whether each row can contain probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract, Task

TOLERANCE = 5e-3
"""Maximum deviation of a probability from the range 0..1, and of a sum of probabilities from 1. The deviation of a sum
of rounded probabilities is at most the unit roundoff, 2^-8 in bfloat16 and 2^-24 in float32."""


def to_probabilities(outputs: NDArray[np.floating[Any]], contract: ModelContract) -> NDArray[np.floating[Any]]:
    """Probabilities `[B, C]` for outputs `[B, C]`; outputs of another kind than `logits` are returned unchanged."""
    if contract.output_kind != "logits":
        return outputs
    logits = outputs.astype(np.float64)
    if contract.task == "binary":  # a sigmoid of z is a softmax over the logits (z, 0)
        logits = np.concatenate([logits, np.zeros_like(logits)], axis=1)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = (exp / exp.sum(axis=1, keepdims=True))[:, : contract.classes]
    return probabilities


def can_be_probabilities(
    mean: NDArray[np.floating[Any]], variance: NDArray[np.floating[Any]] | float, task: Task
) -> NDArray[np.bool_]:
    """Whether each row can contain means of probabilities, `[B]`; False for NaN and infinity.

    Values in an interval from a to b with mean m have at most the variance `(b - m) (m - a)` (Bhatia and Davis 2000),
    here with the interval 0..1 extended by `TOLERANCE` on both sides. The condition fails for a mean outside the
    interval, and for a mean inside it if the values are far outside.

    Args:
        mean: means over passes, `[B, C]`.
        variance: population variances over the same passes, `[B, C]`; 0 for the values of a single pass.
        task: meaning of the outputs; probabilities of classes must also sum to 1.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # infinite and very large values are not probabilities
        excess = np.max(variance + mean * (mean - 1), axis=1)
        possible: NDArray[np.bool_] = excess <= TOLERANCE * (1 + TOLERANCE)
        if task == "classes":
            possible &= np.abs(mean.sum(axis=1) - 1) <= TOLERANCE
    return possible
