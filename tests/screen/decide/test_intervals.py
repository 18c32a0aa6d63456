from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screen.decide.intervals import FlagInterval, flag_interval, probability_above, wilson_interval


def exact_above(flags: int, n: int, rank: int, m: int) -> Fraction:
    """The beta-binomial probability in exact fractions, C(m, x) B(x + a, m - x + b) / B(a, b), for integers a and b."""
    a, b = rank, n + 1 - rank

    def beta(one: int, other: int) -> Fraction:
        return Fraction(math.factorial(one - 1) * math.factorial(other - 1), math.factorial(one + other - 1))

    return sum(
        (math.comb(m, x) * beta(x + a, m - x + b) / beta(a, b) for x in range(flags + 1, m + 1)), start=Fraction(0)
    )


@settings(deadline=None)
@given(n=st.integers(1, 60), m=st.integers(0, 60), data=st.data())
def test_the_probability_is_the_beta_binomials(n: int, m: int, data: st.DataObject) -> None:
    rank, flags = data.draw(st.integers(1, n)), data.draw(st.integers(0, 60))
    assert probability_above(flags, n, rank, m) == pytest.approx(float(exact_above(flags, n, rank, m)), abs=1e-12)


def test_one_calibration_row_makes_every_number_of_flags_as_likely() -> None:
    """Closed form: Beta(1, 1) is uniform, so the number of flags is uniform on 0 to m."""
    for flags in range(10):
        assert probability_above(flags, 1, 1, 10) == pytest.approx(1 - (flags + 1) / 11)


@settings(deadline=None)
@given(n=st.integers(1, 300), m=st.integers(1, 300), level=st.sampled_from([0.9, 0.99, 0.999]), data=st.data())
def test_the_band_is_the_smallest_that_leaves_so_little_on_each_side(
    n: int, m: int, level: float, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, n))
    band, side = flag_interval(n, rank, m, level), (1 - level) / 2
    above = {
        flags: probability_above(flags, n, rank, m) for flags in {band.low - 1, band.low, band.high - 1, band.high}
    }
    assert above[band.high] <= side + 1e-12
    assert band.high == 0 or above[band.high - 1] > side - 1e-12
    assert 1 - above[band.low] > side - 1e-12
    assert band.low == 0 or 1 - above[band.low - 1] <= side + 1e-12


def test_the_band_is_wider_than_the_binomials_because_the_threshold_has_noise_too() -> None:
    """For n = m = 5,000 and 2 %, the standard deviation is 14, that of a binomial 9.9."""
    band = flag_interval(5000, 100, 5000)
    assert band.low < 100 - 3.29 * 9.9 < 100 + 3.29 * 9.9 < band.high
    deviation = math.sqrt(5000 * 0.02 * 0.98 * 2)
    assert band.high - 100 == pytest.approx(3.29 * deviation, rel=0.15)


def test_fresh_rows_of_the_same_kind_leave_the_band_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    n, rank, m, outside, tries = 500, 25, 400, 0, 4000
    band = flag_interval(n, rank, m, 0.95)
    for _ in range(tries):
        threshold = np.sort(generator.random(n))[-rank]
        outside += not band.holds(int((generator.random(m) > threshold).sum()))
    assert 0.03 < outside / tries < 0.055


def test_a_billion_rows_are_no_trouble() -> None:
    band = flag_interval(10_000, 200, 10**9)
    assert 0.015 < band.low / 10**9 < 0.02 < band.high / 10**9 < 0.026


def test_the_ends() -> None:
    assert flag_interval(100, 0, 50) == FlagInterval(50, 0, 0)
    assert flag_interval(100, 5, 0) == FlagInterval(0, 0, 0)
    for wrong in ((10, 11, 5, 0.9), (10, -1, 5, 0.9), (10, 1, -1, 0.9), (10, 1, 5, 1.0)):
        with pytest.raises(ValueError, match="rank"):
            flag_interval(*wrong)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    for finds, rows, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(finds, rows) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
