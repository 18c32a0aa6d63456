"""Exact binomial probabilities, computed with the standard library.

In: a number of successes among independent trials. Out: a p-value.
"""

from __future__ import annotations

import math

_NEGLIGIBLE = 1e-18
"""Ratio of a term to the sum at which the term and all smaller terms are left out."""


def two_sided_p_value(successes: int, trials: int, probability: float) -> float:
    """The exact two-sided p-value of a binomial test: twice the probability of the smaller tail, at most 1.

    A test that rejects at p-values of at most `alpha` rejects a true hypothesis with probability at most `alpha`.

    Args:
        successes: number of successes, from 0 to `trials`.
        trials: number of independent trials.
        probability: probability of a success under the hypothesis, in (0, 1).
    """
    below = _tail(successes, trials, probability)
    above = _tail(trials - successes, trials, 1 - probability)
    return min(1.0, 2 * min(below, above))


def _tail(successes: int, trials: int, probability: float) -> float:
    """Probability of at most `successes` successes."""
    if successes >= trials:
        return 1.0
    mean = trials * probability
    if successes > mean:
        return 1 - _tail(trials - successes - 1, trials, 1 - probability)
    term = math.exp(_log_probability(successes, trials, probability))
    total, count = term, successes
    odds = (1 - probability) / probability
    while count > 0 and term > total * _NEGLIGIBLE:
        term *= count / (trials - count + 1) * odds  # the ratio of the probabilities of count - 1 and of count
        total += term
        count -= 1
    return min(1.0, total)


def _log_probability(successes: int, trials: int, probability: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return ways + successes * math.log(probability) + (trials - successes) * math.log1p(-probability)
