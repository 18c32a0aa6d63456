"""Flag precision and lift over random, from the shares of predictions that reviewers corrected.

In: outcomes of labelled rows. Out: shares of corrections in groups of rows, with confidence intervals. Pure: no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screen.decide.intervals import wilson_interval
from screen.review.classes import OUT_OF_DISTRIBUTION, UNUSABLE
from screen.review.ranking import AUDIT, FLAGGED

KEPT, CHANGED = "kept", "changed"
OUTCOMES = (KEPT, CHANGED, OUT_OF_DISTRIBUTION, UNUSABLE)
"""Outcomes of a review; every outcome except `KEPT` is a correction."""

_BINS = 4


@dataclass(frozen=True)
class ReviewedRow:
    """A labelled row that enters the evaluation.

    Attributes:
        outcome: one of `OUTCOMES`.
        source: `flagged` or `audit`.
        reason: main reason of the flag; "" for an unflagged row.
        suspicion: value of the score, negated if low values are suspicious; None if the score is null.
    """

    outcome: str
    source: str
    reason: str
    suspicion: float | None


@dataclass(frozen=True)
class FlagPrecision:
    """Counts of corrections in one group of labelled rows; for flagged rows, `share` is the flag precision.

    Attributes:
        name: name of the group.
        labelled: number of labelled rows in the group.
        changed: number of rows with a label other than the predicted class.
        out_of_distribution: number of rows labelled as out of distribution.
        unusable: number of rows labelled as unusable.
        low: lower end of the 95 % interval of the share of corrections (Wilson 1927); 0 without rows.
        high: upper end of the 95 % interval; 1 without rows.
    """

    name: str
    labelled: int
    changed: int
    out_of_distribution: int
    unusable: int
    low: float
    high: float

    @property
    def corrections(self) -> int:
        """Number of rows whose prediction the reviewers corrected."""
        return self.changed + self.out_of_distribution + self.unusable

    @property
    def share(self) -> float:
        """Share of corrections, 0 to 1; NaN without rows."""
        return self.corrections / self.labelled if self.labelled else math.nan


@dataclass(frozen=True)
class FlagEvaluation:
    """Precision of a run's flag, estimated from the labelled rows.

    Attributes:
        flagged: the flagged rows.
        audit: the random sample of unflagged rows.
        by_reason: the flagged rows by main reason.
        by_score: the flagged rows by score range, most suspicious first.
        gain: lift over random: share of corrections in the flagged rows minus that in the random sample, and its 95 %
            interval (Newcombe 1998, method 10); None if either group is empty.
        missed: estimated number of corrections among all unflagged rows, and its 95 % interval, both from the random
            sample; None if no row of the sample is labelled.
    """

    flagged: FlagPrecision
    audit: FlagPrecision
    by_reason: tuple[FlagPrecision, ...]
    by_score: tuple[FlagPrecision, ...]
    gain: tuple[float, float, float] | None
    missed: tuple[float, float, float] | None


def count_outcomes(name: str, rows: Sequence[ReviewedRow]) -> FlagPrecision:
    """Counts of the corrections in one group of rows."""
    changed, outside, unusable = (sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES[1:])
    return FlagPrecision(
        name, len(rows), changed, outside, unusable, *wilson_interval(changed + outside + unusable, len(rows))
    )


def evaluate_flag(
    rows: Sequence[ReviewedRow], score: str, unflagged: int, *, high_is_suspicious: bool = True
) -> FlagEvaluation:
    """Flag precision in total, by reason and by score, and lift over random.

    Args:
        rows: the labelled rows that enter the evaluation.
        score: name of the score that groups the flagged rows.
        unflagged: number of unflagged rows in the results.
        high_is_suspicious: whether high values of the score are suspicious.
    """
    flagged = [row for row in rows if row.source == FLAGGED]
    audit = count_outcomes("random, not flagged", [row for row in rows if row.source == AUDIT])
    total = count_outcomes("flagged", flagged)
    reasons = dict.fromkeys(row.reason for row in flagged)
    by_reason = [count_outcomes(reason, [row for row in flagged if row.reason == reason]) for reason in reasons]
    by_reason.sort(key=lambda one: (-one.labelled, one.name))
    missed = (audit.share * unflagged, audit.low * unflagged, audit.high * unflagged) if audit.labelled else None
    return FlagEvaluation(
        total,
        audit,
        tuple(by_reason),
        _by_score(flagged, score, 1.0 if high_is_suspicious else -1.0),
        _gain(total, audit),
        missed,
    )


def _gain(one: FlagPrecision, other: FlagPrecision) -> tuple[float, float, float] | None:
    """Difference of two independent shares with its 95 % interval (Newcombe 1998, Stat. Med. 17, method 10)."""
    if not (one.labelled and other.labelled):
        return None
    difference = one.share - other.share
    low = difference - math.hypot(one.share - one.low, other.high - other.share)
    high = difference + math.hypot(one.high - one.share, other.share - other.low)
    return difference, low, high


def _by_score(flagged: list[ReviewedRow], score: str, sign: float) -> tuple[FlagPrecision, ...]:
    """Counts of corrections in up to four score ranges with about equal numbers of flagged rows.

    Rows with equal scores are in the same range.
    """
    scored = [row for row in flagged if row.suspicion is not None]
    if not scored:
        return ()
    values = np.array([row.suspicion for row in scored], np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1], method="lower"))
    bins = np.searchsorted(edges, values, side="left")
    shares = []
    for index in sorted(set(bins.tolist()), reverse=True):
        members = [row for row, number in zip(scored, bins, strict=True) if number == index]
        ends = sorted(sign * value for value in values[bins == index].tolist())
        name = f"{score} {ends[0]:.4g}" + (f" to {ends[-1]:.4g}" if ends[0] != ends[-1] else "")
        shares.append(count_outcomes(name, members))
    return tuple(shares)
