"""Whether two sets of passes are of one distribution: their means and stds, and how far these may differ.

In: passes `[T, B, C]` of both sides. Out: nothing, or an assertion that fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
