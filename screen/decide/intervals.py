"""Prediction intervals for the number of flags, and confidence intervals of shares. Pure: no I/O.

In: the size of a calibration set, the rank of its threshold and the number of rows of a run; or a number of hits among
rows. Out: the prediction interval, which contains the number of flags with 99.9 % probability if the rows of the run
are distributed like the calibration set; or a confidence interval of a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class FlagInterval:
    """Prediction interval of the number of flags among m rows.

    Attributes:
        rows: number of rows, m.
        low: smallest number of flags in the interval.
        high: largest number of flags in the interval.
    """

    rows: int
    low: int
    high: int

    def holds(self, flags: int) -> bool:
        """Whether a number of flags is in the interval."""
        return self.low <= flags <= self.high


MIN_DRIFT_ROWS = 1000
"""Default minimum number of readable rows for the drift test."""


def flag_interval(calibration_rows: int, rank: int, rows: int, level: float = 0.999) -> FlagInterval:
    """Central prediction interval of the number of flags, from its beta-binomial distribution.

    A row is flagged if its score is above the `rank`-th largest of n calibration scores; for a conformal p-value of at
    most alpha, rank = floor(alpha (n + 1)). The probability that a new row is flagged then has the distribution
    Beta(rank, n + 1 - rank), because the threshold itself is random (Vovk 2012, "Conditional validity of inductive
    conformal predictors"). The number of flags among m new rows therefore has the distribution
    BetaBinomial(m, rank, n + 1 - rank), which is wider than the binomial.

    Args:
        calibration_rows: number of calibration scores, n.
        rank: rank of the threshold among the calibration scores; the highest score has rank 1. With rank 0, no row is
            flagged.
        rows: number of new rows, m.
        level: minimum probability of the interval; at most half of the remaining probability is on each side.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (0 <= rank <= calibration_rows and rows >= 0 and 0 < level < 1):
        raise ValueError(f"n = {calibration_rows}, rank = {rank}, m = {rows}, level = {level}")
    if rank == 0:
        return FlagInterval(rows, 0, 0)
    side = (1 - level) / 2
    low = _first(rows, lambda flags: 1 - probability_above(flags, calibration_rows, rank, rows) > side)
    high = _first(rows, lambda flags: probability_above(flags, calibration_rows, rank, rows) <= side)
    return FlagInterval(rows, low, high)


def probability_above(flags: int, calibration_rows: int, rank: int, rows: int) -> float:
    """Exact probability that more than `flags` of m new rows are flagged.

    All orders of the n + m scores are equally likely. More than x rows are flagged if and only if fewer than `rank` of
    the x + rank largest scores belong to the calibration set. The number of calibration scores among these largest
    scores has a hypergeometric distribution, so the sum has at most `rank` terms for any m.

    Args:
        flags: x.
        calibration_rows: number of calibration scores, n.
        rank: rank of the threshold among the calibration scores; the highest score has rank 1.
        rows: number of new rows, m.
    """
    if flags >= rows:
        return 0.0
    drawn = flags + rank
    whole = _log_choose(calibration_rows + rows, drawn)
    terms = (
        math.exp(_log_choose(calibration_rows, own) + _log_choose(rows, drawn - own) - whole)
        for own in range(max(0, drawn - rows), rank)
    )
    return min(1.0, math.fsum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _first(rows: int, is_reached: Callable[[int], bool]) -> int:
    """The smallest number of flags for which a monotone condition holds, at most `rows`; found by bisection."""
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if is_reached(middle):
            high = middle
        else:
            low = middle + 1
    return low


def wilson_interval(hits: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, valid also for few rows (Wilson 1927, JASA 22; Brown et al. 2001, eq. 4).

    Args:
        hits: number of rows that are counted in the share.
        rows: number of all rows; for 0 rows the interval is 0 to 1.
        level: confidence level, 0 to 1.
    """
    if not rows:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = hits / rows, z * z / rows
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / rows + weight / (4 * rows)) / (1 + weight)
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == rows else centre + half
    return low, high
