"""Intervals of counts: flags to expect from a calibrated threshold, and the share behind some hits. Pure.

In: the size of a calibration, the rank of its threshold and what a run flagged, or hits among rows. Out: the interval
that holds the number of flags with 99.9 % probability if fresh rows are like those of the calibration, and whether it
does; or a confidence interval of a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class FlagInterval:
    """The numbers of flags that are to be expected.

    Attributes:
        rows: fresh rows, m.
        low: the smallest number of flags.
        high: the largest.
    """

    rows: int
    low: int
    high: int

    def holds(self, flags: int) -> bool:
        """Whether a number of flags is in the band."""
        return self.low <= flags <= self.high


LEAST_ROWS = 1000
"""Below so many rows nothing is said of drift."""


@dataclass(frozen=True)
class Drift:
    """Whether a run flagged as many of its readable rows as its calibration lets expect.

    Attributes:
        rows: readable rows.
        flags: how many of them were flagged.
        band: what was to be expected; None where the rows are too few to say.
    """

    rows: int
    flags: int
    band: FlagInterval | None

    @property
    def is_alarm(self) -> bool:
        """Whether the number of flags left the band."""
        return self.band is not None and not self.band.holds(self.flags)

    def describe(self) -> str:
        """In one line."""
        found = f"{self.flags} of {self.rows} readable rows flagged"
        if self.band is None:
            return f"drift: {found}, which is too few rows to say; at least {LEAST_ROWS}"
        verdict = "ALARM, outside" if self.is_alarm else "none, within"
        return f"drift: {verdict} the calibrated band: {found}, {self.band.low} to {self.band.high} expected"


def find_drift(calibration_rows: int, rank: int, rows: int, flags: int) -> Drift:
    """Hold a run's flags against its calibration.

    Args:
        calibration_rows: how many rows were ranked.
        rank: of the threshold among them, from the top.
        rows: readable rows of the run.
        flags: how many of them were flagged.
    """
    return Drift(rows, flags, flag_interval(calibration_rows, rank, rows) if rows >= LEAST_ROWS else None)


def flag_interval(calibration_rows: int, rank: int, rows: int, level: float = 0.999) -> FlagInterval:
    """The central band of the beta-binomial distribution of the number of flags.

    A row is flagged if its score lies above the `rank`-th largest of n calibration scores, which for a conformal
    p-value at most alpha is rank = floor(alpha (n + 1)). The chance that a fresh row is flagged then has the
    distribution Beta(rank, n + 1 - rank), because the threshold itself is a random one (Vovk 2012,
    "Conditional validity of inductive conformal predictors"), and the number of flags among m fresh rows
    BetaBinomial(m, rank, n + 1 - rank): wider than the binomial by the noise of the threshold.

    Args:
        calibration_rows: n.
        rank: of the threshold among the calibration scores, from the top; 0 flags nothing.
        rows: m.
        level: probability of the band, at least; what is left is shared by both sides.

    Raises:
        ValueError: a number is out of range.
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
    """P(more than `flags` of m fresh rows are flagged), exactly.

    All n + m scores are in an order of which each is as likely as any other. There are more than x flags if and
    only if fewer than `rank` of the x + rank largest scores belong to the calibration, and how many do is
    hypergeometric. So the sum has `rank` terms, however large m is.
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
    """The smallest number of flags at which a condition holds that goes on holding; `rows` if none below."""
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if is_reached(middle):
            high = middle
        else:
            low = middle + 1
    return low


def wilson_interval(hits: int, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval, which holds for few rows too (1927, JASA 22; Brown et al. 2001, eq. 4).

    Args:
        hits: how many rows count.
        rows: of how many; without any, the share may be anything.
        level: of confidence, 0 to 1.
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
