from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from screen.columns import SCORES
from screen.decide.detectors import HIGH_IS_UNUSUAL, TAIL_SHARE, CombinedScore, Detector

VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=200).map(lambda some: np.array(some))


def test_the_surprise_is_minus_the_logarithm_of_the_share_at_or_above() -> None:
    """Computed by hand: 40 of the values 0, 1, ..., 99 are at or above 60."""
    detector = Detector.fit("entropy", np.arange(100.0))
    assert detector.surprisal(np.array([60.0]))[0] == pytest.approx(-math.log(41 / 101))
    assert detector.surprisal(np.array([-5.0, 0.0])).tolist() == [0.0, 0.0]


def test_beyond_the_tail_the_surprise_is_that_of_an_exponential_distribution() -> None:
    values = np.random.default_rng(0).exponential(2.0, 200_000)
    detector = Detector.fit("entropy", values)
    for value in (8.0, 20.0, 60.0):
        assert detector.surprisal(np.array([value]))[0] == pytest.approx(value / 2, rel=0.02)


@settings(max_examples=200)
@given(VALUES, VALUES)
def test_a_higher_value_never_surprises_less_and_beyond_the_maximum_always_more(
    known: NDArray[np.float64], asked: NDArray[np.float64]
) -> None:
    detector = Detector.fit("entropy", known)
    ordered = np.unique(asked)
    surprisals = detector.surprisal(ordered)
    assert np.all(np.diff(surprisals) >= -1e-12)  # between two known values, up to rounding
    assert np.all(surprisals >= 0)
    top = known.max()
    beyond = detector.surprisal(np.array([top, top + 1, top + 100, top + 1e4]))
    assert np.all(np.diff(beyond) > 0)


@given(VALUES, VALUES)
def test_the_value_at_a_surprise_is_where_that_surprise_is_reached(
    known: NDArray[np.float64], asked: NDArray[np.float64]
) -> None:
    detector = Detector.fit("entropy", known)
    surprisals = detector.surprisal(asked)
    values = detector.value_at(surprisals)
    reached = np.isfinite(values)
    np.testing.assert_allclose(detector.surprisal(values[reached]), surprisals[reached], rtol=1e-9, atol=1e-9)
    assert np.all(surprisals[~reached] == 0)


@given(VALUES, VALUES, st.integers(0, 200))
def test_a_surprise_does_not_depend_on_the_rows_beside_it(
    known: NDArray[np.float64], asked: NDArray[np.float64], cut: int
) -> None:
    detector = Detector.fit("entropy", known)
    parts = [detector.surprisal(part) for part in (asked[:cut], asked[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), detector.surprisal(asked))


def test_low_confidence_and_low_kurtosis_are_what_surprises() -> None:
    for name, sign in (("confidence", -1), ("kurtosis", -1), ("energy", 1)):
        low, high = Detector.fit(name, np.arange(100.0)).surprisal(np.array([5.0, 95.0]))
        assert sign * (high - low) > 0


def test_the_tail_is_fitted_on_its_share_of_the_rows() -> None:
    detector = Detector.fit("entropy", np.arange(1000.0))
    assert detector.knots[-1] == (1 - TAIL_SHARE) * 1000


def test_known_rows_that_are_all_alike_still_keep_order_beyond() -> None:
    surprisals = Detector.fit("entropy", np.zeros(50)).surprisal(np.array([0.0, 1.0, 2.0]))
    assert np.all(np.diff(surprisals) > 0)


def test_a_combination_is_the_euclidean_norm_of_its_surprisals() -> None:
    rng = np.random.default_rng(1)
    known = {"entropy": rng.random(300), "layout_distance": rng.random(300)}
    both = CombinedScore(tuple(Detector.fit(name, values) for name, values in known.items()))
    asked = {name: rng.random(20) * 2 for name in known}
    np.testing.assert_allclose(both.score(asked), np.linalg.norm(both.surprisals(asked), axis=1), rtol=1e-12)
    assert both.names == ("entropy", "layout_distance")


def test_every_detector_is_a_column() -> None:
    assert set(HIGH_IS_UNUSUAL) <= {column.name for column in SCORES}
