"""What a flag is worth: how often people disagreed with the model where it flagged, and where it did not.

In: what became of labelled rows. Out: shares with their intervals. Pure: no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screen.decide.intervals import wilson_interval
from screen.review.queue.classes import OUT_OF_DISTRIBUTION, UNUSABLE
from screen.review.ranking import AUDIT, FLAGGED

KEPT, CHANGED = "kept", "changed"
OUTCOMES = (KEPT, CHANGED, OUT_OF_DISTRIBUTION, UNUSABLE)
"""What a person made of a prediction; all but the first are finds."""

_BINS = 4


@dataclass(frozen=True)
class Judged:
    """A labelled row whose prediction could be judged.

    Attributes:
        outcome: one of `OUTCOMES`.
        source: `flagged`, `audit`, or another word for rows that are neither.
        reason: the flag's reason in short.
        suspicion: what it was ordered by, high is suspicious; None where it has none.
    """

    outcome: str
    source: str
    reason: str
    suspicion: float | None


@dataclass(frozen=True)
class FlagPrecision:
    """Of some labelled rows, how many were finds.

    Attributes:
        name: which rows.
        labelled: how many.
        changed: of these, given to another class.
        out_of_distribution: of these, called that.
        unusable: of these, called that.
        low: lower end of the 95 % interval of the share of finds (Wilson 1927); 0 without rows.
        high: its upper end; 1 without rows.
    """

    name: str
    labelled: int
    changed: int
    out_of_distribution: int
    unusable: int
    low: float
    high: float

    @property
    def finds(self) -> int:
        """Rows that a person did not leave as the model had them."""
        return self.changed + self.out_of_distribution + self.unusable

    @property
    def share(self) -> float:
        """Of finds, 0 to 1; NaN without rows."""
        return self.finds / self.labelled if self.labelled else math.nan


@dataclass(frozen=True)
class Worth:
    """What the flag of a run is worth, as far as rows are labelled.

    Attributes:
        flagged: the flagged rows.
        audit: the random rows that were not flagged.
        by_reason: the flagged rows by their reason.
        by_score: the flagged rows by what they were ordered by, the most suspicious first.
        gain: share of finds where flagged, less that among the random others, and its 95 % interval (Newcombe 1998,
            method 10); None without rows of both.
        missed: of all rows that were not flagged, how many a person would not leave as they are, with the interval
            of the random rows' share; None without any.
    """

    flagged: FlagPrecision
    audit: FlagPrecision
    by_reason: tuple[FlagPrecision, ...]
    by_score: tuple[FlagPrecision, ...]
    gain: tuple[float, float, float] | None
    missed: tuple[float, float, float] | None


def count_share(name: str, rows: Sequence[Judged]) -> FlagPrecision:
    """Count some rows."""
    changed, away, unusable = (sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES[1:])
    return FlagPrecision(
        name, len(rows), changed, away, unusable, *wilson_interval(changed + away + unusable, len(rows))
    )


def weigh(rows: Sequence[Judged], score: str, unflagged: int, *, high_is_suspicious: bool = True) -> Worth:
    """Count what was found.

    Args:
        rows: the labelled rows.
        score: the name of what they were ordered by.
        unflagged: how many rows of the results were not flagged.
        high_is_suspicious: on which side of the score lies what is suspicious.
    """
    flagged = [row for row in rows if row.source == FLAGGED]
    audit = count_share("random, not flagged", [row for row in rows if row.source == AUDIT])
    whole = count_share("flagged", flagged)
    reasons = dict.fromkeys(row.reason for row in flagged)
    by_reason = [count_share(reason, [row for row in flagged if row.reason == reason]) for reason in reasons]
    by_reason.sort(key=lambda one: (-one.labelled, one.name))
    missed = (audit.share * unflagged, audit.low * unflagged, audit.high * unflagged) if audit.labelled else None
    return Worth(
        whole,
        audit,
        tuple(by_reason),
        _by_score(flagged, score, 1.0 if high_is_suspicious else -1.0),
        _gain(whole, audit),
        missed,
    )


def _gain(one: FlagPrecision, other: FlagPrecision) -> tuple[float, float, float] | None:
    """The difference of two independent shares with its interval (Newcombe 1998, Stat. Med. 17, method 10)."""
    if not (one.labelled and other.labelled):
        return None
    difference = one.share - other.share
    low = difference - math.hypot(one.share - one.low, other.high - other.share)
    high = difference + math.hypot(one.high - one.share, other.share - other.low)
    return difference, low, high


def _by_score(flagged: list[Judged], score: str, sign: float) -> tuple[FlagPrecision, ...]:
    """Flagged rows in up to four bins of as many rows each; rows of one score are in one bin."""
    scored = [row for row in flagged if row.suspicion is not None]
    if not scored:
        return ()
    values = np.array([row.suspicion for row in scored], np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1], method="lower"))
    bins = np.searchsorted(edges, values, side="left")
    shares = []
    for index in sorted(set(bins.tolist()), reverse=True):
        here = [row for row, place in zip(scored, bins, strict=True) if place == index]
        ends = sorted(sign * value for value in values[bins == index].tolist())
        name = f"{score} {ends[0]:.4g}" + (f" to {ends[-1]:.4g}" if ends[0] != ends[-1] else "")
        shares.append(count_share(name, here))
    return tuple(shares)
