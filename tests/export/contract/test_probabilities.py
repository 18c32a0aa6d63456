from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.contract.metadata import ModelContract, Task
from export.contract.probabilities import TOLERANCE, can_be_probabilities, to_probabilities

CONTRACT = ModelContract("image", "output", 1, 1, 1, 3, "logits", (), Preprocessing(1.0))


def softmax_passes(passes: int, classes: int, *, scale: float) -> NDArray[np.float32]:
    """Softmax outputs `[T, 20, C]` in float32; a large scale makes them confident."""
    logits = (np.random.default_rng(classes).normal(size=(passes, 20, classes)) * scale).astype(np.float32)
    exp = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.asarray(exp / exp.sum(axis=2, keepdims=True), np.float32)


def in_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values rounded to the 8 significant bits of bfloat16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_logits_become_probabilities_and_other_outputs_stay() -> None:
    logits = np.array([[0.0, math.log(2), math.log(5)], [1000, 0, 0]], np.float32)
    np.testing.assert_allclose(
        to_probabilities(logits, CONTRACT), np.array([[0.125, 0.25, 0.625], [1, 0, 0]]), atol=1e-7
    )
    one = replace(CONTRACT, classes=1)
    np.testing.assert_allclose(
        to_probabilities(np.array([[0.0], [math.log(3)], [-1000]]), one), np.array([[0.5], [0.75], [0]])
    )
    for kind in ("softmax", "sigmoid", "regression"):
        assert to_probabilities(logits, replace(CONTRACT, output_kind=kind)) is logits


@pytest.mark.parametrize("rounding", [np.float32, np.float16, in_bfloat16])
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_rounded_probabilities_can_be_probabilities(rounding: Any, classes: int, scale: float) -> None:
    """The mean over 100 passes, and each single pass."""
    passes = rounding(softmax_passes(100, classes, scale=scale)).astype(np.float32)
    for task in ("classes", "labels"):
        assert can_be_probabilities(passes.mean(axis=0), passes.var(axis=0), task).all()
        assert can_be_probabilities(passes.reshape(-1, classes), 0.0, task).all()


@pytest.mark.parametrize(
    ("row", "possible"),
    [
        ([0.2, 0.3, 0.5], ("classes", "labels")),
        ([0.9, 0.8, 0.1], ("labels",)),
        ([1.2, -0.1, -0.1], ()),
        ([0.5, 0.5, -2 * TOLERANCE], ()),
        ([26.9, 0.1, -7.0], ()),
        ([np.nan, 0.5, 0.5], ()),
        ([np.inf, -np.inf, 0.5], ()),
        ([1e30, -1e30, 1], ()),
    ],
)
def test_values_outside_the_range_or_with_another_sum_cannot(row: list[float], possible: tuple[str, ...]) -> None:
    tasks: tuple[Task, ...] = ("classes", "labels")
    for rows in (np.array([row], np.float32), np.array([row], np.float64)):
        assert tuple(task for task in tasks if can_be_probabilities(rows, 0.0, task)[0]) == possible


def test_values_whose_mean_alone_is_in_the_range_cannot_be_probabilities() -> None:
    """Two passes of -4 and 5 have the mean of a coin toss, and a variance that no values in 0..1 have."""
    passes = np.array([[[-4.0, 5.0]], [[5.0, -4.0]]])
    assert can_be_probabilities(passes.mean(axis=0), 0.0, "classes").all()
    assert not can_be_probabilities(passes.mean(axis=0), passes.var(axis=0), "classes").any()
