"""Compare numbers that two implementations computed: single tensors, and distributions over passes.

In: tensors of any shape, or passes `[T, B, C]`, of both sides. Out: nothing, or an `AssertionError`.

Two correct implementations round differently, and one implementation rounds differently on another
processor. Rounding errors grow with the terms of a sum, not with its result, so a tolerance for each
element fails where large terms cancel. Probabilities near 0 and 1 hide large errors of the logits.
Therefore tensors are compared relative to their largest element, and networks before their last activation too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def assert_close_to_scale(
    actual: ArrayLike, expected: ArrayLike, tolerance: float, *, of: ArrayLike | None = None
) -> None:
    """Assert that two tensors of one shape differ by at most `tolerance` times the largest expected magnitude.

    Args:
        actual: the tensor under test.
        expected: the tensor that another implementation computed.
        tolerance: maximum difference, as a share of the scale.
        of: tensor whose largest magnitude is the scale, where `expected` is a difference of its elements,
            such as a standard deviation; `expected` itself by default.
    """
    one, other = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert one.shape == other.shape
    assert np.isfinite(other).all(), "the expected tensor is not finite"
    scale = float(np.abs(other if of is None else np.asarray(of, np.float64)).max(initial=0))
    difference = float(np.abs(one - other).max(initial=0))
    # A difference that is NaN fails the comparison.
    assert difference <= tolerance * scale, (
        f"tensors of shape {one.shape} differ by {difference:.3g}, {difference / max(scale, 1e-300):.3g} of the "
        f"largest expected magnitude {scale:.3g}; at most {tolerance:g} of it is allowed"
    )


def drop_last_activation(model: Any) -> Any:
    """The same Keras model (Keras 2 or 3), changed in place to return the values before its last activation."""
    last = model.layers[-1]
    assert last.activation.__name__ in ("softmax", "sigmoid")
    last.activation = lambda logits: logits
    return model


def mean_and_std(values: Floats) -> tuple[list[Floats], list[Floats]]:
    """Mean and std over passes, and the standard error of each; that of the std by the delta method."""
    passes, deviation, std = len(values), values - values.mean(axis=0), values.std(axis=0)
    fourth = (deviation**4).mean(axis=0)
    std_error = np.sqrt(np.maximum(fourth - std**4, 0) / passes) / np.maximum(2 * std, 1e-12)
    return [values.mean(axis=0), std], [std / np.sqrt(passes), std_error]


def mean_entropy(values: Floats) -> tuple[Floats, Floats]:
    """Predictive entropy and its standard error by the delta method, for probabilities."""
    mean = values.mean(axis=0)
    projected = (values * -np.log(mean)).sum(axis=2)
    return -(mean * np.log(mean)).sum(axis=1), projected.std(axis=0) / np.sqrt(len(values))


def assert_agree(
    ones: Sequence[Floats], others: Sequence[Floats], errors: tuple[Sequence[Floats], Sequence[Floats]], slack: float
) -> None:
    """Within 4 pooled standard errors plus the slack, but for 0.1 % of the numbers, and never beyond 8."""
    for one, other, error, other_error in zip(ones, others, *errors, strict=True):
        pooled = np.sqrt(error**2 + other_error**2)
        distance = np.maximum(np.abs(one - other) - slack, 0) / np.maximum(pooled, 1e-12)
        assert np.mean(distance > 4) <= 0.001
        assert distance.max() <= 8
