"""Accuracy of a group of rows, area under the risk-coverage curve of a score, and error rates of unreviewed rows.

In: a score `[n]`, and whether each prediction is correct `[n]`. Out: shares and areas. Pure: no I/O, no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.decide.intervals import wilson_interval

SHARES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Reviewed shares of the rows at which the error rate of the unreviewed rows is measured."""


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy of the predictions in one group of rows.

    Attributes:
        rows: number of rows in the group.
        wrong: number of wrong predictions.
        accuracy: share of correct predictions, 0 to 1; None without rows.
        low: lower end of the 95 % interval of the accuracy (Wilson 1927); 0 without rows.
        high: upper end of the 95 % interval; 1 without rows.
    """

    rows: int
    wrong: int
    accuracy: float | None
    low: float
    high: float

    @classmethod
    def of(cls, right: NDArray[np.bool_]) -> GroupAccuracy:
        """The accuracy of a group.

        Args:
            right: `[n]`, whether the prediction is correct.
        """
        rows, hits = len(right), int(right.sum())
        return cls(rows, rows - hits, hits / rows if rows else None, *wilson_interval(hits, rows))


@dataclass(frozen=True)
class ScoreRisk:
    """How well the order of the rows by one score puts wrong predictions last.

    Attributes:
        score: the score's column.
        high_is_unusual: whether rows with high values are accepted last; if False, rows with low values are last.
        rows: number of labelled rows in which the score is not null; only these rows enter the area.
        aurc: area under the risk-coverage curve, an error rate, 0 to 1; lower is better.
        excess_aurc: `aurc` minus the area of the best order of the same rows, in which all correct predictions come
            first (E-AURC, Geifman et al. 2019); 0 is the best value.
    """

    score: str
    high_is_unusual: bool
    rows: int
    aurc: float
    excess_aurc: float

    @classmethod
    def of(
        cls, score: str, values: NDArray[Any], right: NDArray[np.bool_], *, high_is_unusual: bool
    ) -> ScoreRisk | None:
        """The areas of one score; None if the score is null in every row.

        Args:
            score: name of the score.
            values: `[n]`, values of the score; NaN where the score is null.
            right: `[n]`, whether the prediction is correct.
            high_is_unusual: whether high values are unusual.
        """
        present = ~np.isnan(values)
        if not present.any():
            return None
        suspicion, right = (1 if high_is_unusual else -1) * values[present], right[present]
        area = risk_coverage_area(suspicion, right)
        return cls(score, high_is_unusual, len(right), area, area - risk_coverage_area(~right, right))


def risk_coverage_area(suspicion: NDArray[Any], right: NDArray[np.bool_]) -> float:
    """Area under the risk-coverage curve (AURC): mean error rate of the accepted rows over all coverages.

    A selective classifier accepts the k least suspicious of n rows. Its coverage is k/n, and its risk r(k) is the error
    rate of these k rows (Geifman and El-Yaniv 2017, "Selective classification for deep neural networks", sec. 2). The
    area is AURC = (r(1) + r(2) + ... + r(n)) / n (Geifman, Uziel and El-Yaniv 2019, "Bias-reduced uncertainty
    estimation for deep neural classifiers", sec. 2).

    The order of rows with equal suspicion is arbitrary. r(k) is the expected value over all orders of these rows:
    within a tie, the expected number of errors grows linearly with k. Therefore the area of a constant score is the
    error rate of all rows, and no area depends on the order in which rows are stored.

    Args:
        suspicion: `[n]`, n at least 1, no NaN: rows with high values are accepted last. For a column of the results,
            the suspicion is the score, negated if low values are unusual
            (`screen.decide.detectors.HIGH_IS_SUSPICIOUS`).
        right: `[n]`, whether the prediction is correct.
    """
    order = np.argsort(suspicion, kind="stable")
    ordered = suspicion[order]
    errors = np.concatenate([[0], np.cumsum(~right[order])])
    ends = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [len(ordered)]])
    accepted = np.arange(1, len(ordered) + 1)
    return float(np.mean(np.interp(accepted, ends, errors[ends]) / accepted))


def error_left(values: NDArray[Any], right: NDArray[np.bool_]) -> tuple[float, ...]:
    """Error rate of the unreviewed rows at each of `SHARES`; 0 if no row is unreviewed.

    Args:
        values: `[n]`, sort key: rows are reviewed in descending order of their values; rows with equal values keep
            their order.
        right: `[n]`, whether the prediction is correct.
    """
    wrong = ~right[np.argsort(-values, kind="stable")]
    left = []
    for share in SHARES:
        rest = wrong[round(share * len(wrong)) :]
        left.append(float(rest.mean()) if len(rest) else 0.0)
    return tuple(left)
