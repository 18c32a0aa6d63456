from __future__ import annotations

import math

import pytest

from screen.decide.intervals import wilson_interval
from screen.review.labels.precision import CHANGED, KEPT, ReviewedRow, count_outcomes, evaluate_flag


def test_the_interval_of_a_difference_is_the_published_one() -> None:
    """Newcombe 1998, Stat. Med. 17:873, table II, method 10: 56/70 - 48/80 and 9/10 - 3/10."""
    for (a, m), (b, n), low, high in (((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090)):
        rows = [ReviewedRow(CHANGED if i < a else KEPT, "flagged", "entropy", 1.0) for i in range(m)]
        rows += [ReviewedRow(CHANGED if i < b else KEPT, "audit", "", 0.0) for i in range(n)]
        gain = evaluate_flag(rows, "entropy", 0).gain
        assert gain is not None
        assert gain == pytest.approx((a / m - b / n, low, high), abs=5e-5)


def test_shares_are_grouped_by_reason_and_by_score() -> None:
    rows = [
        ReviewedRow(CHANGED if i >= 75 else KEPT, "flagged", "entropy" if i % 2 else "energy", float(i))
        for i in range(100)
    ]
    worth = evaluate_flag(rows, "entropy", 1000)
    assert [(one.name, one.labelled) for one in worth.by_reason] == [("energy", 50), ("entropy", 50)]
    assert [(one.labelled, one.corrections) for one in worth.by_score] == [(25, 25), (25, 0), (25, 0), (25, 0)]
    assert [one.name for one in worth.by_score][::3] == ["entropy 75 to 99", "entropy 0 to 24"]
    assert (worth.gain, worth.missed) == (None, None)


def test_rows_with_equal_scores_share_a_bin() -> None:
    worth = evaluate_flag([ReviewedRow(KEPT, "flagged", "x", 2.0)] * 9, "entropy", 5)
    assert [(one.name, one.labelled) for one in worth.by_score] == [("entropy 2", 9)]


def test_score_ranges_keep_their_sign_if_low_scores_are_suspicious() -> None:
    worth = evaluate_flag(
        [ReviewedRow(KEPT, "flagged", "x", -0.25), ReviewedRow(KEPT, "flagged", "x", -0.75)],
        "confidence",
        5,
        high_is_suspicious=False,
    )
    assert [one.name for one in worth.by_score] == ["confidence 0.25", "confidence 0.75"]


def test_missed_corrections_are_estimated_from_the_random_rows() -> None:
    rows = [ReviewedRow("unusable", "audit", "", None)] + [ReviewedRow(KEPT, "audit", "", None)] * 19
    missed = evaluate_flag(rows, "entropy", 2000).missed
    assert missed is not None
    low, high = wilson_interval(1, 20)
    assert missed == pytest.approx((100, 2000 * low, 2000 * high))


def test_the_share_of_an_empty_group_is_nan() -> None:
    nothing = count_outcomes("none", [])
    assert math.isnan(nothing.share)
    assert (nothing.corrections, nothing.low, nothing.high) == (0, 0.0, 1.0)
