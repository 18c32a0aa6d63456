"""Division of in-distribution rows into sets, and number of rows that a target rate requires.

In: digests of images, numbers of rows and a target rate. Out: disjoint sets of rows, minimum numbers of rows, and the
confidence interval of the true rate. Pure: no model, no I/O.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from screen.decide.reference import MIN_REFERENCE_ROWS

FITTING_SHARE = 1 / 3
"""Share of the in-distribution rows outside the reference set that form the fitting set; the others form the
calibration set."""

MIN_FITTING_ROWS = 30
"""Minimum rows in the fitting set; `least_rows` derives the minimum number of in-distribution rows from it."""


def split_rows(digests: NDArray[np.uint64], shares: tuple[float, ...]) -> list[NDArray[np.int64]]:
    """Split rows into disjoint sets by the digests of their images, so that equal images are in the same set.

    The split does not depend on the order of the rows or on their shards.

    Args:
        digests: `[N]`, digests of the pixels.
        shares: share of the rows in each set, in order; the sum is 1.

    Returns:
        For each set, the positions of its rows in `digests`.
    """
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    ends = [round(len(order) * share) for share in np.cumsum(shares)]
    # Equal images are in one set: the end of a set is moved behind the last of several equal images.
    ends = [int(np.searchsorted(ordered, ordered[end - 1], side="right")) if end else 0 for end in ends]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def threshold_rank(rows: int, review_rate: float) -> int:
    """Rank k of the threshold: rows with scores above the k-th highest calibration score are flagged; 0 for no flags.

    Args:
        rows: number of calibration scores, n.
        review_rate: target share of in-distribution rows that are flagged.
    """
    ranks = int(review_rate * (rows + 1)) + 1
    while ranks and ranks / (rows + 1) > review_rate:  # the division that `p_value <= review_rate` compares
        ranks -= 1
    return ranks


def min_calibration_rows(review_rate: float) -> int:
    """Minimum number of rows in the calibration set with which a row can be flagged at this target rate."""
    rows = max(0, math.ceil(1 / review_rate) - 2)
    while not threshold_rank(rows, review_rate):
        rows += 1
    return rows


def rate_interval(rows: int, review_rate: float, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the true flag rate of in-distribution rows, for a calibration set of n rows.

    Over random calibration sets the rate has the distribution Beta(k, n + 1 - k) (Vovk 2012, prop. 2a), with k from
    `threshold_rank`; ties make the rate smaller. The interval is central.

    Args:
        rows: number of calibration scores, n.
        review_rate: target share of in-distribution rows that are flagged.
        level: confidence level, 0 to 1.
    """
    ranks = threshold_rank(rows, review_rate)
    return tuple(_beta_quantile((1 + side * level) / 2, ranks, rows) for side in (-1, 1))  # type: ignore[return-value]


def _beta_quantile(q: float, k: int, n: int) -> float:
    """The q-quantile of Beta(k, n + 1 - k), by bisection on the CDF, which at x is P(Bin(n, x) >= k)."""
    hits = np.arange(k)
    log_ways = np.array([math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in hits.tolist()])
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        below = float(np.exp(log_ways + hits * math.log(x) + (n - hits) * math.log1p(-x)).sum())
        low, high = (x, high) if 1 - below < q else (low, x)
    return (low + high) / 2


def least_rows(review_rate: float, reference_share: float) -> int:
    """Minimum number of in-distribution rows for large enough reference, fitting and calibration sets.

    Args:
        review_rate: target share of in-distribution rows that are flagged.
        reference_share: share of the rows that form the reference set; 0 with reference shards.
    """
    least = min_calibration_rows(review_rate)

    def is_enough(rows: int) -> bool:
        rest = rows - int(rows * reference_share)
        fitting = round(rest * FITTING_SHARE)
        enough = int(rows * reference_share) >= MIN_REFERENCE_ROWS or not reference_share
        return enough and fitting >= MIN_FITTING_ROWS and rest - fitting >= least

    start = int(max(MIN_FITTING_ROWS / FITTING_SHARE, least / (1 - FITTING_SHARE)) / (1 - reference_share)) - 5
    return next(rows for rows in itertools.count(max(start, 0)) if is_enough(rows))
