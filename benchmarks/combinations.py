"""Ways to combine the surprisals of several scores into one score, for comparison with `screen.decide.detectors`.

In: surprisals `[B, D]` of B rows and D scores, in nats. Out: scores `[B]`; high values are unusual. The surprisal is
-ln p, where p is a row's p-value by one score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Combine = Callable[[Floats], Floats]

_MAX_SURPRISAL = 700.0
"""Surprisal above which exp overflows, in nats; the Cauchy combination treats higher surprisals as equal."""


def add(surprisals: Floats) -> Floats:
    """Sum of the surprisals: half of Fisher's statistic (Fisher 1932, sec. 21.1)."""
    total: Floats = surprisals.sum(axis=1)
    return total


def take_maximum(surprisals: Floats) -> Floats:
    """Maximum of the surprisals, which is the surprisal of the smallest p-value (Tippett 1931)."""
    highest: Floats = surprisals.max(axis=1)
    return highest


def combine_cauchy(surprisals: Floats) -> Floats:
    """The inverse hyperbolic sine of the Cauchy combination, the mean of cot(pi p) (Liu and Xie 2020, eq. 1)."""
    p = np.exp(-np.minimum(surprisals, _MAX_SURPRISAL))
    statistic: Floats = np.arcsinh((1 / np.tan(np.pi * p)).mean(axis=1))
    return statistic


def combine_harmonic(surprisals: Floats) -> Floats:
    """-ln of the harmonic mean of the p-values (Wilson 2019, eq. 1 with equal weights)."""
    mean: Floats = np.logaddexp.reduce(surprisals, axis=1) - np.log(surprisals.shape[1])
    return mean


def take_norm(surprisals: Floats) -> Floats:
    """Euclidean norm of the surprisals."""
    norm: Floats = np.linalg.norm(surprisals, axis=1)
    return norm


COMBINATIONS: dict[str, Combine] = {
    "sum": add,
    "maximum": take_maximum,
    "Cauchy": combine_cauchy,
    "harmonic mean": combine_harmonic,
    "Euclidean norm": take_norm,
}
"""Combinations without fitted weights, by name."""


def fit_logistic(known: Floats, outliers: Floats) -> Combine:
    """Log-odds of a logistic regression that separates in-distribution rows from outliers.

    Args:
        known: `[n, D]`, surprisals of in-distribution rows.
        outliers: `[m, D]`, surprisals of outliers; both classes have the same total weight.
    """
    from sklearn.linear_model import LogisticRegression

    is_outlier = np.repeat([0, 1], [len(known), len(outliers)])
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(np.concatenate([known, outliers]), is_outlier)
    decide: Combine = model.decision_function
    return decide
