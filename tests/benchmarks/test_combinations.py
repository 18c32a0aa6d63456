"""The combinations of surprisals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.combinations import COMBINATIONS, combine_cauchy, combine_harmonic, fit_logistic

surprisals = st.lists(st.floats(0.01, 600), min_size=3, max_size=3)
each = pytest.mark.parametrize("way", list(COMBINATIONS))


@each
@given(row=surprisals, more=st.floats(0, 50), part=st.integers(0, 2))
def test_a_more_unusual_part_never_lowers_the_score(way: str, row: list[float], more: float, part: int) -> None:
    higher = list(row)
    higher[part] += more
    low, high = COMBINATIONS[way](np.array([row, higher]))
    assert high >= low - 1e-9 * abs(low)


@each
@given(row=surprisals)
def test_the_order_of_the_parts_has_no_effect(way: str, row: list[float]) -> None:
    one, other = COMBINATIONS[way](np.array([row, row[::-1]]))
    assert one == pytest.approx(other)


@each
def test_surprisals_beyond_those_of_all_in_distribution_rows_keep_their_order(way: str) -> None:
    scores = COMBINATIONS[way](np.array([[30.0, 1.0], [60.0, 1.0], [600.0, 1.0]]))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 1).all()


def test_the_harmonic_mean_of_equal_p_values_is_this_p_value() -> None:
    assert combine_harmonic(np.full((1, 4), 2.5)) == pytest.approx([2.5])
    # p = 1/2 and 1/4: the harmonic mean is 2 / (2 + 4).
    assert combine_harmonic(np.log([[2.0, 4.0]])) == pytest.approx([np.log(3)])


def test_the_cauchy_combination_of_p_values_of_a_quarter_has_the_tangent_of_a_quarter_turn() -> None:
    assert np.sinh(combine_cauchy(np.log([[4.0, 4.0], [2.0, 2.0], [4.0, 2.0]]))) == pytest.approx([1, 0, 0.5])


def test_the_logistic_regression_ignores_a_part_that_does_not_separate() -> None:
    rng = np.random.default_rng(0)
    known, outliers = rng.exponential(1, (500, 2)), rng.exponential(1, (200, 2))
    outliers[:, 0] += 3
    decide = fit_logistic(known, outliers)
    base, first, second = decide(np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]]))
    assert first - base > 10 * abs(second - base)
