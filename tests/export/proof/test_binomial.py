from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from export.proof.binomial import two_sided_p_value


def exact(successes: int, trials: int, probability: Fraction) -> float:
    terms = [comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)]
    return float(min(Fraction(1), 2 * min(sum(terms[: successes + 1]), sum(terms[successes:]))))


@pytest.mark.parametrize("probability", [Fraction(1, 2), Fraction(3, 4), Fraction(1, 50), Fraction(99, 100)])
def test_the_p_value_is_twice_the_smaller_tail(probability: Fraction) -> None:
    for trials in (1, 2, 7, 60):
        for successes in range(trials + 1):
            found = two_sided_p_value(successes, trials, float(probability))
            assert found == pytest.approx(exact(successes, trials, probability), rel=1e-9)


def test_p_values_far_below_the_limit_are_not_lost_in_rounding() -> None:
    assert two_sided_p_value(0, 1000, 0.5) == pytest.approx(2.0**-999)
    assert two_sided_p_value(1000, 1000, 0.5) == pytest.approx(2.0**-999)
    assert two_sided_p_value(750, 1000, 0.5) == pytest.approx(exact(750, 1000, Fraction(1, 2)), rel=1e-6)
    assert two_sided_p_value(10**6, 10**6, 0.5) == 0
