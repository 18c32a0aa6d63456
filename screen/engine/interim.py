"""Test for early exit: find the rows whose flag the remaining passes are very unlikely to change.

In: statistics of the passes so far and the predictive entropy above which each row is flagged (the row's limit).
Out: whether each row is decided, `[B]`. The functions are pure. The interim looks depend on T alone, and the decision
on a row depends on the statistics and the limit of that row alone, not on its batch or on the order of the rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from screen.engine.statistics import Floats, RunStatistics

FIRST_LOOK = 12
"""Number of passes before the first interim look."""

LOOK_GROWTH = 2
"""Growth factor of completed / remaining passes between interim looks."""

LAST_LOOK_SHARE = 0.95
"""Fraction of T after which no further interim look is planned, because early exit would save too few passes."""

MIN_LOOK_SPACING = 6
"""Minimum number of passes between interim looks."""

STANDARD_ERRORS = 3.6
"""Minimum distance between the entropy of a decided row and its limit, in standard errors, after many passes;
`critical_value` is the larger distance after few passes."""

BIAS_MARGIN = 0.25
"""Additional minimum distance, in units of `|limit| (1/n - 1/T)` after n of T passes: the entropy of the mean of n
passes is biased downwards by an amount of order 1/n (Miller 1955)."""

UNSEEN_PASSES = 2
"""Number of hypothetical dissenting passes assumed unseen."""

MAX_INFORMATION_SHARE = 0.5
"""Maximum mutual information of a row decided below its limit, as a fraction of ln n after n passes. The mutual
information estimated from n passes is at most ln n; close to this bound, n determines the estimate, not the row."""

_MIN_PROBABILITY = 1e-30

ALGORITHM = (
    f"{FIRST_LOOK}/{LOOK_GROWTH}/{LAST_LOOK_SHARE}/{MIN_LOOK_SPACING}/{STANDARD_ERRORS}/{BIAS_MARGIN}/{UNSEEN_PASSES}"
    f"/{MAX_INFORMATION_SHARE}/mixture/t/finite"
)
"""Version of the early-exit test; part of a run's fingerprint."""


def plan_interim_looks(passes: int) -> tuple[int, ...]:
    """Numbers of completed passes at the interim looks, ascending; the last is T.

    The looks are spaced so that the standard error falls by about the same factor between looks (see `entropy_error`).
    """
    looks: list[int] = []
    look = FIRST_LOOK
    while look <= min(LAST_LOOK_SHARE * passes, passes - MIN_LOOK_SPACING):
        looks.append(look)
        odds = LOOK_GROWTH * look / (passes - look)
        look = max(look + MIN_LOOK_SPACING, int(passes * odds / (1 + odds)))
    return (*looks, passes)


def critical_value(passes: int) -> float:
    """Quantile of Student's t with the tail probability that `STANDARD_ERRORS` has in the normal distribution.

    Student's t applies because the standard error is estimated from the same passes. The quantile is computed with the
    first terms of Fisher's expansion (Abramowitz and Stegun, 26.7.5), for `passes - 1` degrees of freedom.
    """
    z, freedom = STANDARD_ERRORS, passes - 1
    terms = (
        z,
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return sum(terms)


def entropy_with_unseen_passes(entropy: Floats, passes: int) -> Floats:
    """Predictive entropy, in nats, if `UNSEEN_PASSES` passes gave probability 1 to a class of probability 0 so far.

    Dissenting passes may be too rare to have occurred yet, and if all passes so far agree, the estimated standard error
    is 0. The entropy of a mixture of distributions with disjoint supports is their weighted mean entropy plus the
    entropy of the weights.

    Args:
        entropy: `[B]`, predictive entropy so far, nats.
        passes: n, the number of passes so far; more than `UNSEEN_PASSES`.

    Returns:
        `[B]`, nats.
    """
    share = UNSEEN_PASSES / passes
    return (1 - share) * entropy - share * math.log(share) - (1 - share) * math.log1p(-share)


def entropy_error(runs: RunStatistics, passes: int) -> Floats:
    """Upper bound on the standard error of the predictive entropy after n of T passes, `[B]`, nats.

    The error is the deviation from the entropy after all T passes. The n passes are a sample of the T passes without
    replacement, so the standard error of a mean with sample standard deviation s is `s sqrt(1/n - 1/T)` (Cochran 1977,
    sec. 2.6).

    By the delta method, the error of the entropy is the error of the mean over passes of `sum_c -p_c ln m_c`, with the
    predictive mean m. The probabilities sum to 1, so any constant a may be subtracted from the weights
    `w_c = -ln m_c`, and the triangle inequality bounds the standard deviation of the sum by `sum_c |w_c - a| std_c`.
    The bound is smallest if a is the median of the w_c weighted by std_c. With two classes the bound is exact.

    Args:
        runs: statistics of n passes of a model with classes or with a single probability.
        passes: T.
    """
    mean, std = runs.mean, np.sqrt(np.maximum(runs.m2, 0) / (runs.passes - 1))
    if mean.shape[1] == 1:
        mean, std = np.concatenate([mean, 1 - mean], axis=1), np.concatenate([std, std], axis=1)
    weights = -np.log(np.maximum(mean, _MIN_PROBABILITY))
    order = np.argsort(weights, axis=1, kind="stable")
    weights, std = np.take_along_axis(weights, order, axis=1), np.take_along_axis(std, order, axis=1)
    cumulative = np.cumsum(std, axis=1)
    median = np.argmax(cumulative >= cumulative[:, -1:] / 2, axis=1)[:, np.newaxis]
    terms = np.abs(weights - np.take_along_axis(weights, median, axis=1)) * std
    error: Floats = np.cumsum(terms, axis=1)[:, -1] * math.sqrt(1 / runs.passes - 1 / passes)
    return error


def find_decided_rows(
    entropy: Floats, mutual_information: Floats, error: Floats, limit: Floats, completed: int, passes: int
) -> NDArray[np.bool_]:
    """Whether each row needs no more passes, `[B]`.

    The required distance is `critical_value` standard errors plus the bias margin. A row is decided above its limit if
    its entropy exceeds the limit by more than this distance. A row is decided below its limit if the entropy is below
    the limit by more than this distance, `entropy_with_unseen_passes` is below the limit too, and the mutual
    information is below `MAX_INFORMATION_SHARE` of its maximum.

    Args:
        entropy: `[B]`, predictive entropy of the passes so far, nats.
        mutual_information: `[B]`, mutual information of the same passes, nats.
        error: `[B]`, standard error of the entropy, nats.
        limit: `[B]`, entropy above which the row is flagged, nats; a row with the limit -inf (flagged at any entropy)
            or inf (flagged at no entropy) is decided.
        completed: n, the number of passes so far.
        passes: T.
    """
    finite = np.where(np.isinf(limit), 0, limit)
    distance = critical_value(completed) * error + BIAS_MARGIN * (1 / completed - 1 / passes) * np.abs(finite)
    above = entropy - finite > distance
    below = (
        (finite - entropy > distance)
        & (finite > entropy_with_unseen_passes(entropy, completed))
        & (mutual_information < MAX_INFORMATION_SHARE * math.log(completed))
    )
    decided: NDArray[np.bool_] = np.isinf(limit) | above | below
    return decided
