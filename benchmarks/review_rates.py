"""Count how often the flag rate of fresh rows is within the interval of a calibration, over random halvings.

In: scores of in-distribution rows that are in no reference set. Out: for each target rate and each of two orders, how
often the number of flags is within the interval.

An order divides the rows for the calibration into a fitting and a calibration set. Both orders have the same halves:

  digest order  The order of `calibrate`, by the digests of the images. All halvings have this order, and are therefore
                not independent of the order.
  own order     A random order for each halving, drawn after the halves; equal images stay together. The rows are then
                divided at random, and the interval is exact if scores have no ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from screen.decide.detectors import CombinedScore, Detector
from screen.decide.row_sets import FITTING_SHARE, split_rows, threshold_rank
from screen.engine.distance import DISTANCES

DETECTORS = ("entropy", *DISTANCES)
RATES = (0.01, 0.02, 0.05)
HALVINGS = 200
LEVEL = 0.95
"""Nominal level of the interval: probability that the number of flags is within it."""

Scores = Mapping[str, NDArray[Any]]


def count_review_rates(scores: Scores, digests: NDArray[np.uint64], halvings: int = HALVINGS) -> list[dict[str, Any]]:
    """Count flags over random halvings of scored rows, at three target rates and in both orders.

    Args:
        scores: scores of each detector of `DETECTORS`, `[N]`.
        digests: digests of the images, `[N]`.
        halvings: number of halvings; the number of a halving, from 0, is its seed.

    Returns:
        For each target rate and each order, the number of halvings within the interval (`inside`) and the mean share
        of fresh rows that are flagged (`mean`).
    """
    inside = np.zeros((2, len(RATES), halvings), bool)
    shares = np.zeros(inside.shape)
    for seed in range(halvings):
        rng = np.random.default_rng(seed)
        one, other = np.array_split(rng.permutation(len(digests)), 2)
        for order, keys in enumerate((digests[one], shuffle_digests(digests[one], rng))):
            known, fresh = score_halves(scores, one, other, keys)
            p_values = (1 + len(known) - np.searchsorted(known, fresh, side="left")) / (len(known) + 1)
            for place, rate in enumerate(RATES):
                flagged = int(np.sum(p_values <= rate))
                low, high = flag_interval(len(known), len(fresh), rate)
                inside[order, place, seed] = low <= flagged <= high
                shares[order, place, seed] = flagged / len(fresh)
    counted = []
    for place, rate in enumerate(RATES):
        orders = {
            name: {"inside": int(inside[order, place].sum()), "mean": float(shares[order, place].mean())}
            for order, name in enumerate(("digest_order", "own_order"))
        }
        counted.append({"promised": rate, "level": LEVEL, "halvings": halvings, **orders})
        print(counted[-1], flush=True)
    return counted


def shuffle_digests(digests: NDArray[np.uint64], rng: np.random.Generator) -> NDArray[np.uint64]:
    """Keys `[N]` that order rows at random; equal digests have equal keys."""
    distinct, places = np.unique(digests, return_inverse=True)
    return rng.permutation(len(distinct)).astype(np.uint64)[places]


def score_halves(
    scores: Scores, one: NDArray[np.int64], other: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The combined score of the calibration rows, ascending, and of the fresh rows.

    Args:
        scores: scores of each detector of `DETECTORS`, `[N]`.
        one: rows for the calibration.
        other: fresh rows.
        keys: keys whose order divides `one` into a fitting and a calibration set.
    """
    fitting, calibrating = (one[rows] for rows in split_rows(keys, (FITTING_SHARE, 1 - FITTING_SHARE)))
    combined = CombinedScore(tuple(Detector.fit(name, scores[name][fitting]) for name in DETECTORS))
    known, fresh = (combined.score({name: scores[name][rows] for name in DETECTORS}) for rows in (calibrating, other))
    return np.sort(known), fresh


@cache
def flag_interval(known: int, fresh: int, rate: float) -> tuple[float, float]:
    """Central interval, of the level `LEVEL`, of the number of flags among fresh rows.

    The number has a beta-binomial distribution, because both the threshold and the flags are random.

    Args:
        known: number of calibration scores.
        fresh: number of fresh rows.
        rate: target rate.
    """
    rank = threshold_rank(known, rate)
    low, high = stats.betabinom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], fresh, rank, known + 1 - rank)
    return float(low), float(high)
