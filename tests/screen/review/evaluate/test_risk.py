from __future__ import annotations

from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from screen.decide.intervals import wilson_interval
from screen.review.evaluate.risk import SHARES, GroupAccuracy, ScoreRisk, error_left, risk_coverage_area

rows = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40)
"""Suspicion with many ties, and whether the prediction is right."""


def split(pairs: list[tuple[int, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([one for one, _ in pairs], np.float64), np.array([right for _, right in pairs], np.bool_)


def test_the_area_is_the_mean_error_rate_over_all_coverages() -> None:
    """By hand: in ascending order the rows are right, wrong, right, wrong."""
    suspicion = np.array([3.0, 1.0, 4.0, 2.0])
    right = np.array([True, True, False, False])
    assert risk_coverage_area(suspicion, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_a_tie_has_the_mean_area_over_all_orders_of_its_rows() -> None:
    suspicion = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    right = np.array([True, False, True, True, False, False])
    orders = [[0, *middle, 5] for middle in permutations(range(1, 5))]
    areas = [risk_coverage_area(np.arange(6.0), right[order]) for order in orders]
    assert risk_coverage_area(suspicion, right) == pytest.approx(np.mean(areas))


@given(rows)
def test_a_constant_score_has_the_error_rate_as_its_area(pairs: list[tuple[int, bool]]) -> None:
    suspicion, right = split(pairs)
    assert risk_coverage_area(np.zeros_like(suspicion), right) == pytest.approx(1 - right.mean())


@given(rows)
def test_no_order_is_better_than_all_right_predictions_first(pairs: list[tuple[int, bool]]) -> None:
    suspicion, right = split(pairs)
    best = np.mean(np.cumsum(np.sort(~right)) / np.arange(1, len(right) + 1))
    risk = ScoreRisk.of("s", suspicion, right, high_is_unusual=True)
    assert risk is not None
    assert risk.excess_aurc >= -1e-12
    assert risk.aurc - risk.excess_aurc == pytest.approx(best)
    perfect = ScoreRisk.of("s", right.astype(np.float64), right, high_is_unusual=False)
    assert perfect is not None
    assert perfect.excess_aurc == pytest.approx(0)


@given(rows, st.randoms(use_true_random=False))
def test_the_area_depends_on_the_order_of_the_score_alone(pairs: list[tuple[int, bool]], random: Random) -> None:
    suspicion, right = split(pairs)
    random.shuffle(pairs)
    shuffled, shuffled_right = split(pairs)
    assert risk_coverage_area(np.exp(shuffled), shuffled_right) == pytest.approx(risk_coverage_area(suspicion, right))


def test_a_score_whose_low_values_are_unusual_accepts_high_values_first() -> None:
    """The only wrong prediction has the lowest confidence."""
    values, right = np.array([0.9, 0.2, 0.8]), np.array([True, False, True])
    low, high = (ScoreRisk.of("confidence", values, right, high_is_unusual=high) for high in (False, True))
    assert low is not None
    assert high is not None
    assert low.aurc == pytest.approx(1 / 9)
    assert low.excess_aurc == 0
    assert high.aurc == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_rows_without_the_score_are_left_out_of_its_area() -> None:
    right = np.array([False, True, True, False])
    risk = ScoreRisk.of("s", np.array([np.nan, 1.0, 2.0, 3.0]), right, high_is_unusual=True)
    assert risk == ScoreRisk.of("s", np.array([1.0, 2.0, 3.0]), right[1:], high_is_unusual=True)
    assert risk is not None
    assert risk.rows == 3
    assert ScoreRisk.of("s", np.full(4, np.nan), right, high_is_unusual=True) is None


def test_infinite_scores_have_a_place_in_the_order() -> None:
    right = np.array([False, True, False])
    assert risk_coverage_area(np.array([np.inf, -np.inf, np.inf]), right) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_the_accuracy_of_a_group_has_its_counts_and_its_interval() -> None:
    found = GroupAccuracy.of(np.repeat([True, False], [7, 3]))
    assert found == GroupAccuracy(10, 3, 0.7, *wilson_interval(7, 10))
    assert GroupAccuracy.of(np.empty(0, np.bool_)) == GroupAccuracy(0, 0, None, 0.0, 1.0)


def test_reviewing_the_worst_first_leaves_fewer_errors() -> None:
    """Ten of a thousand rows are wrong and score highest: reviewing 1 % leaves no errors."""
    right = np.ones(1000, np.bool_)
    right[:10] = False
    left = dict(zip(SHARES, error_left(-np.arange(1000.0), right), strict=True))
    assert left[0.0] == 0.01
    assert left[0.005] == pytest.approx(5 / 995)
    assert left[0.01] == left[0.5] == 0.0
