"""Whether the flag rate of fresh rows is within the interval that a calibration states, over random halvings.

In: scores of in-distribution rows that are in no reference set. Out: for each target rate, how often the number of
flags is within the 95 % interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from screen.decide.detectors import CombinedScore, Detector
from screen.decide.row_sets import FITTING_SHARE, split_rows, threshold_rank
from screen.engine.distance import DISTANCES

DETECTORS = ("entropy", *DISTANCES)
RATES = (0.01, 0.02, 0.05)
HALVINGS = 20


def count_review_rates(scores: Mapping[str, NDArray[Any]], digests: NDArray[np.uint64]) -> list[dict[str, Any]]:
    """Count flags over random halvings of scored rows, at three target rates.

    One half is the fitting and the calibration set, the other half has the fresh rows. The interval is that of a
    beta-binomial distribution, in which the threshold and the number of flags both vary.

    Args:
        scores: scores of each detector of `DETECTORS`, `[N]`.
        digests: digests of the images, `[N]`.
    """
    counted = []
    for rate in RATES:
        inside, rates = 0, []
        for seed in range(HALVINGS):
            one, other = np.array_split(np.random.default_rng(seed).permutation(len(digests)), 2)
            fitting, calibrating = (one[rows] for rows in split_rows(digests[one], (FITTING_SHARE, 1 - FITTING_SHARE)))
            both = CombinedScore(tuple(Detector.fit(name, scores[name][fitting]) for name in DETECTORS))
            known = np.sort(both.score({name: scores[name][calibrating] for name in DETECTORS}))
            fresh = both.score({name: scores[name][other] for name in DETECTORS})
            p_values = (1 + len(known) - np.searchsorted(known, fresh, side="left")) / (len(known) + 1)
            flagged = int(np.sum(p_values <= rate))
            rank = threshold_rank(len(known), rate)
            low, high = stats.betabinom.ppf([0.025, 0.975], len(other), rank, len(known) + 1 - rank)
            inside += bool(low <= flagged <= high)
            rates.append(flagged / len(other))
        counted.append({"promised": rate, "inside": inside, "halvings": HALVINGS, "mean": float(np.mean(rates))})
        print(counted[-1], flush=True)
    return counted
