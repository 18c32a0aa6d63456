"""Counts of scores in logarithmic bins, which give quantiles with a relative error of at most 1 %. Pure: no I/O.

In: scores. Out: `ScoreCounts`, whose size does not depend on the number of scores, and which can be added. The bins are
those of DDSketch (Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", PVLDB 12).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ERROR = 0.01
"""Maximum relative error of a quantile."""

_SMALLEST = 1e-6
"""Absolute value below which a score is counted as 0."""

_LOG_GROWTH = math.log((1 + _ERROR) / (1 - _ERROR))
"""Logarithm of the ratio of the upper limit of a bin to its lower limit."""


@dataclass(frozen=True)
class ScoreCounts:
    """Number of scores in each bin.

    Bin 0 contains the scores of an absolute value below 1e-6. Bin k > 0 contains the scores above
    1e-6 g^(k-2), up to 1e-6 g^(k-1), where g = 1.01 / 0.99; bin -k contains their negatives.

    Attributes:
        bins: pairs of bin and number of scores, ascending by bin; without empty bins.
    """

    bins: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, scores: NDArray[Any]) -> ScoreCounts:
        """Count scores.

        Args:
            scores: `[B]`; values that are not finite are left out.
        """
        values = np.asarray(scores, np.float64)
        values = values[np.isfinite(values)]
        sizes = np.abs(values)
        steps = np.ceil(np.log(np.maximum(sizes, _SMALLEST) / _SMALLEST) / _LOG_GROWTH).astype(np.int64) + 1
        numbers, counts = np.unique(np.where(sizes < _SMALLEST, 0, np.sign(values) * steps), return_counts=True)
        return cls(tuple(zip(numbers.astype(int).tolist(), counts.tolist(), strict=True)))

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        """Sum of the two counts, bin by bin."""
        total = Counter(dict(self.bins))
        total.update(dict(other.bins))
        return ScoreCounts(tuple(sorted(total.items())))

    @property
    def total(self) -> int:
        """Number of scores."""
        return sum(count for _, count in self.bins)

    def quantile(self, level: float) -> float | None:
        """Quantile of the scores, with a relative error of at most 1 %; None without scores.

        Args:
            level: share of the scores below the quantile, 0 to 1.
        """
        rank = level * (self.total - 1)
        seen = 0
        for number, count in self.bins:
            seen += count
            if seen > rank:
                return _middle(number)
        return None


def _middle(number: int) -> float:
    """The value that differs from every score in a bin by a relative error of at most 1 %; 0 for bin 0."""
    if number == 0:
        return 0.0
    upper = _SMALLEST * math.exp((abs(number) - 1) * _LOG_GROWTH)
    return math.copysign(upper * (1 - _ERROR), number)
