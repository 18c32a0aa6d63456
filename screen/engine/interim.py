"""When a row needs no more passes: its entropy is so far from where the decision turns that the rest cannot change it.

In: statistics of the passes so far, and for each row the entropy above which it is flagged. Out: which
rows are settled. Pure. At which passes rows are looked at follows from T alone, and whether a row is
settled from the row alone, so that neither batch nor order matters.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from screen.engine.statistics import Floats, RunStatistics

FIRST_LOOK = 12
"""Passes before a row may leave."""

GROWTH = 2
"""From one look to the next, the passes that were had for each that is left grow so many times."""

LAST_LOOK = 0.95
"""The share of T after which no row is looked at: what is left is not worth it."""

LEAST_APART = 6
"""Passes from one look to the next, at least."""

ERRORS = 3.6
"""Standard errors between the entropy and its limit that settle a row; more after few passes, see `errors_after`."""

MARGIN = 0.25
"""The share of the limit that must lie between, too, times `1/n - 1/T` after n passes: the entropy of the mean of few
passes is a little too low, by about as much as their number is small (Miller 1955)."""

UNSEEN = 2
"""Passes of another mind, for as many as there were, that may be too rare to be seen yet."""

DISAGREEMENT = 0.5
"""The share of the logarithm of the number of passes above which their mutual information tells nothing but that they
are few: n passes cannot show more than ln n of it."""

_SMALLEST = 1e-30

ALGORITHM = (
    f"{FIRST_LOOK}/{GROWTH}/{LAST_LOOK}/{LEAST_APART}/{ERRORS}/{MARGIN}/{UNSEEN}/{DISAGREEMENT}/mixture/t/finite"
)
"""Part of a run's fingerprint."""


def plan_looks(passes: int) -> tuple[int, ...]:
    """After how many passes rows are looked at; the last is T.

    The error falls about as much from each look to the next (see `entropy_error`).
    """
    looks: list[int] = []
    look = FIRST_LOOK
    while look <= min(LAST_LOOK * passes, passes - LEAST_APART):
        looks.append(look)
        odds = GROWTH * look / (passes - look)
        look = max(look + LEAST_APART, int(passes * odds / (1 + odds)))
    return (*looks, passes)


def errors_after(passes: int) -> float:
    """Estimated standard errors that are as rarely exceeded as `ERRORS` known ones.

    Student's t, for the error comes from the same few passes; by the first terms of Fisher's expansion (Abramowitz and
    Stegun, 26.7.5).
    """
    z, freedom = ERRORS, passes - 1
    terms = (
        z,
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return sum(terms)


def entropy_with_unseen(entropy: Floats, passes: int) -> Floats:
    """The predictive entropy if `UNSEEN` more passes were sure of a class that none so far gives anything, `[B]`, nats.

    A pass that disagrees may be so rare that none was seen yet; passes that all agree have no standard error to tell.
    The entropy of a mixture of distributions that share no class is the mean of theirs and that of their shares.

    Args:
        entropy: `[B]`, predictive entropy so far, nats.
        passes: how many there were, more than `UNSEEN`.
    """
    share = UNSEEN / passes
    return (1 - share) * entropy - share * math.log(share) - (1 - share) * math.log1p(-share)


def entropy_error(runs: RunStatistics, passes: int) -> Floats:
    """At least the standard error of the predictive entropy after these passes, of that after all T, `[B]`, in nats.

    The n passes so far are among the T, so with the sample standard deviation s the mean's is `s sqrt(1/n - 1/T)`
    (Cochran 1977, sec. 2.6): what is left to come moves less and less.

    By the delta method it is that of the mean over passes of `sum_c -p_c ln m_c`, with the predictive mean m.
    The probabilities sum to 1, so any constant may be taken off the weights `-ln m_c`, and the
    triangle inequality bounds the standard deviation of the sum by `sum_c |w_c - a| std_c`; the weighted
    median makes it smallest. Where two classes compete, it is exact.

    Args:
        runs: of a model with classes, or with one sigmoid output.
        passes: T.
    """
    mean, std = runs.mean, np.sqrt(np.maximum(runs.m2, 0) / (runs.passes - 1))
    if mean.shape[1] == 1:
        mean, std = np.concatenate([mean, 1 - mean], axis=1), np.concatenate([std, std], axis=1)
    weights = -np.log(np.maximum(mean, _SMALLEST))
    order = np.argsort(weights, axis=1, kind="stable")
    weights, std = np.take_along_axis(weights, order, axis=1), np.take_along_axis(std, order, axis=1)
    below = np.cumsum(std, axis=1)
    middle = np.argmax(below >= below[:, -1:] / 2, axis=1)[:, np.newaxis]
    terms = np.abs(weights - np.take_along_axis(weights, middle, axis=1)) * std
    error: Floats = np.cumsum(terms, axis=1)[:, -1] * math.sqrt(1 / runs.passes - 1 / passes)
    return error


def find_decided(
    entropy: Floats, mutual_information: Floats, error: Floats, limit: Floats, so_far: int, passes: int
) -> NDArray[np.bool_]:
    """Which rows need no more passes, `[B]`.

    Those whose entropy is far above the limit; and those in which it is far below, would stay below if passes
    disagreed that are too rare to be seen yet, and tells more than that there were few passes.

    Args:
        entropy: `[B]`, predictive entropy of the passes so far, nats.
        mutual_information: `[B]`, of the same passes, nats.
        error: `[B]`, the standard error of the entropy.
        limit: `[B]`, the entropy above which the row is flagged; -inf or inf where it is or is not, whatever it is.
        so_far: how many passes there were.
        passes: T.
    """
    finite = np.where(np.isinf(limit), 0, limit)
    far = errors_after(so_far) * error + MARGIN * (1 / so_far - 1 / passes) * np.abs(finite)
    above = entropy - finite > far
    below = (
        (finite - entropy > far)
        & (finite > entropy_with_unseen(entropy, so_far))
        & (mutual_information < DISAGREEMENT * math.log(so_far))
    )
    settled: NDArray[np.bool_] = np.isinf(limit) | above | below
    return settled
