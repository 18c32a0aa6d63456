"""The count of halvings within the interval, for scores and digests with known results."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.review_rates import DETECTORS, count_review_rates, flag_interval, shuffle_digests

ROWS = 3000
HALVINGS = 40


def count(digests: NDArray[np.uint64], values: NDArray[np.float64]) -> dict[str, Any]:
    """The counts of both orders at a target rate of 5 %, of rows that all detectors score alike."""
    return count_review_rates(dict.fromkeys(DETECTORS, values), digests, HALVINGS)[-1]


def test_only_the_digest_order_depends_on_the_digests() -> None:
    values = np.random.default_rng(0).exponential(size=ROWS)
    unusual_first = np.argsort(np.argsort(-values)).astype(np.uint64)  # no unusual row can be in the calibration set
    found = count(unusual_first, values)
    assert found["digest_order"]["inside"] == 0
    assert found["digest_order"]["mean"] > 0.3
    assert found["own_order"]["inside"] >= 0.8 * HALVINGS
    assert abs(found["own_order"]["mean"] - 0.05) < 0.01


def test_digests_that_tell_nothing_of_the_scores_have_the_nominal_share_in_both_orders() -> None:
    rng = np.random.default_rng(1)
    found = count(rng.permutation(ROWS).astype(np.uint64), rng.exponential(size=ROWS))
    assert (found["level"], found["halvings"]) == (0.95, HALVINGS)
    assert min(found[order]["inside"] for order in ("digest_order", "own_order")) >= 0.8 * HALVINGS


def test_a_count_is_repeatable() -> None:
    values = np.random.default_rng(2).exponential(size=200)
    assert count(np.arange(200, dtype=np.uint64), values) == count(np.arange(200, dtype=np.uint64), values)


def test_equal_digests_have_equal_keys_in_an_order_of_their_own() -> None:
    digests = np.repeat(np.arange(100, dtype=np.uint64), 2)
    first, second = (shuffle_digests(digests, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.array_equal(first[::2], first[1::2])
    assert sorted(first[::2].tolist()) == list(range(100))
    assert not np.array_equal(first, second)


def test_the_interval_is_central() -> None:
    # With one calibration score and a rate of one half, all numbers from 0 to 99 are equally probable.
    assert flag_interval(1, 99, 0.5) == (2, 97)
