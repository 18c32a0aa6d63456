"""Out-of-distribution scores: how unusual each score of a row is among known rows, and all of them together.

In: scores `[B]` as they are written, and those of known rows. Out: `[B]`, high is out of distribution.
Pure: no model, no I/O.

A score says little by itself: an entropy of 0.3 is common for one network and unheard of for
another. Its surprisal, -ln of the share of known rows that score at least as high, is on one scale for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL_SHARE = 0.05
"""The share of known rows, the highest, that the tail is fitted on."""

HIGH_IS_UNUSUAL = {
    "entropy": True,
    "expected_entropy": True,
    "mutual_information": True,
    "variation_ratio": True,
    "prediction_std": True,
    "largest_std": True,
    "energy": True,
    "largest_label_entropy": True,
    "confidence": False,
    # Passes over a known image agree near 1 with a few stragglers below: skewed to the left, with a long tail.
    "skewness": True,
    "kurtosis": False,
    "feature_distance": True,
}
"""Every score that may be a detector, and on which side of it lies what is unusual."""

HIGH_IS_SUSPICIOUS = {**HIGH_IS_UNUSUAL, "ood_score": True, "p_value": False}
"""Every score by which rows can be told apart, those of a calibration included, and the same of it."""


def orient(name: str, values: NDArray[Any]) -> Floats:
    """A score in float64, turned so that high is unusual."""
    oriented: Floats = np.asarray(values, np.float64)
    return oriented if HIGH_IS_UNUSUAL[name] else -oriented


@dataclass(frozen=True)
class Detector:
    """Turns one score into its surprisal, in nats.

    Up to the last knot the surprisal is -ln((1 + rows at or above) / (n + 1)) of the n known rows, between
    knots a straight line; beyond it the tail goes on as an exponential distribution does, along a
    straight line, so that values which no known row reached keep their order.

    Attributes:
        name: the score.
        knots: `[K]`, values of the score (oriented), strictly ascending.
        surprisals: `[K]`, the surprisal at each, strictly ascending.
        slope: of the line beyond the last knot, above 0.
    """

    name: str
    knots: Floats
    surprisals: Floats
    slope: float

    @classmethod
    def fit(cls, name: str, values: NDArray[Any]) -> Detector:
        """Fit to the score of known rows.

        Args:
            name: the score.
            values: `[n]`, n at least 1.
        """
        ordered = np.sort(orient(name, values))
        size = len(ordered)
        start = ordered[min(size - 1, int(np.ceil((1 - TAIL_SHARE) * size)))]
        knots = np.unique(ordered[ordered <= start])
        at_or_above = size - np.searchsorted(ordered, knots, side="left")
        excess = ordered[ordered > start] - start
        # The likeliest scale of an exponential tail is the mean excess; where no row is beyond, any scale keeps order.
        scale = float(excess.mean()) if len(excess) else float(np.ptp(ordered))
        return cls(name, knots, -np.log((1 + at_or_above) / (size + 1)), 1 / scale if scale > 0 else 1.0)

    def surprisal(self, values: NDArray[Any]) -> Floats:
        """The surprisal of each value.

        Args:
            values: `[B]`, the score.
        """
        oriented = orient(self.name, values)
        beyond = np.maximum(oriented - self.knots[-1], 0)
        known: Floats = np.interp(oriented, self.knots, self.surprisals)
        total: Floats = known + self.slope * beyond
        return total

    def value_at(self, surprisal: Floats) -> Floats:
        """The oriented value of the score at which this surprisal is reached; -inf where every value reaches it.

        Args:
            surprisal: `[B]`.
        """
        beyond = np.maximum(surprisal - self.surprisals[-1], 0) / self.slope
        value: Floats = np.interp(surprisal, self.surprisals, self.knots)
        reached: Floats = np.where(surprisal <= self.surprisals[0], -np.inf, value + beyond)
        return reached


@dataclass(frozen=True)
class CombinedScore:
    """Several detectors as one score: the sum of their surprisals.

    Twice the sum is Fisher's statistic (Fisher 1932, sec. 21.1), but the scores of one row are
    dependent, so its chi-square distribution does not hold: the sum is a score, and what it means is
    found by ranking rows that fitted nothing (`screen.decide.calibration`).

    Attributes:
        detectors: at least one.
    """

    detectors: tuple[Detector, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The scores that are read."""
        return tuple(detector.name for detector in self.detectors)

    def surprisals(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """Each detector's surprisal, `[B, D]`.

        Args:
            scores: for each name `[B]`.
        """
        return np.stack([detector.surprisal(scores[detector.name]) for detector in self.detectors], axis=1)

    def score(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """The combined score, `[B]`, in nats.

        Args:
            scores: for each name `[B]`.
        """
        total = self.detectors[0].surprisal(scores[self.detectors[0].name])
        for detector in self.detectors[1:]:
            total = total + detector.surprisal(scores[detector.name])
        return total
