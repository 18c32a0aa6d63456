"""Detectors: the surprisal of a row's score relative to in-distribution rows, and the norm of several surprisals.

In: scores `[B]` in the types of the result columns, and scores of in-distribution rows. Out: a combined score `[B]`;
high values are unusual. Pure: no model, no I/O.

The scale of a score depends on the network: an entropy of 0.3 is common for one network and never occurs for another.
The surprisal, -ln of the share of in-distribution rows with a score at least as high, has one scale for all scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL_SHARE = 0.05
"""Share of the in-distribution rows on which the tail is fitted: the rows with the highest scores."""

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
    # In-distribution images have probabilities near 1 in most passes, and lower probabilities in a few passes: a long
    # left tail, so a low skewness and a high kurtosis.
    "skewness": True,
    "kurtosis": False,
    "layout_distance": True,
    "contrast_distance": True,
    "penultimate_distance": True,
}
"""Scores that can be detectors; True if high values are unusual, False if low values are unusual."""

COMPARES_PASSES = frozenset(
    ["mutual_information", "variation_ratio", "prediction_std", "largest_std", "skewness", "kurtosis"]
)
"""Scores that compare the passes of a row; with one pass, these scores are 0 (`mutual_information` up to rounding)."""

HIGH_IS_SUSPICIOUS = {**HIGH_IS_UNUSUAL, "feature_distance": True, "ood_score": True, "p_value": False}
"""Scores by which rows can be ordered: the scores in `HIGH_IS_UNUSUAL`, the scores of a calibration, and
`feature_distance` in results of format 1 or 2; True if high values are unusual, False if low values are unusual."""

_WORD = re.compile(r"[A-Za-z_]\w*")


def ranking_score(rule: str, *, calibrated: bool) -> str:
    """Name of the score that ranks rows by suspicion: `ood_score`, else the first score in the rule, else `entropy`.

    Args:
        rule: text of the flag rule.
        calibrated: whether the rows have an `ood_score`.
    """
    if calibrated:
        return "ood_score"
    return next((word for word in _WORD.findall(rule) if word in HIGH_IS_SUSPICIOUS), "entropy")


def orient(name: str, values: NDArray[Any]) -> Floats:
    """The values of a score in float64, negated if low values are unusual, so that high results are unusual."""
    oriented: Floats = np.asarray(values, np.float64)
    return oriented if HIGH_IS_UNUSUAL[name] else -oriented


@dataclass(frozen=True)
class Detector:
    """Maps one score to its surprisal, in nats.

    At a knot the surprisal is -ln((1 + k) / (1 + n)), where k of the n in-distribution rows have at least this score;
    between knots, the surprisal is interpolated linearly. Beyond the last knot, the surprisal is linear, as for
    an exponential tail, so that values above those of all in-distribution rows keep their order.

    Attributes:
        name: name of the score.
        knots: `[K]`, oriented values of the score, strictly ascending.
        surprisals: `[K]`, surprisal at each knot in nats, strictly ascending.
        slope: slope beyond the last knot, in nats per unit of the score, above 0.
    """

    name: str
    knots: Floats
    surprisals: Floats
    slope: float

    @classmethod
    def fit(cls, name: str, values: NDArray[Any]) -> Detector:
        """Fit a detector to the scores of in-distribution rows.

        Args:
            name: name of the score.
            values: `[n]`, the scores as in the result column, n at least 1.
        """
        ordered = np.sort(orient(name, values))
        size = len(ordered)
        start = ordered[min(size - 1, int(np.ceil((1 - TAIL_SHARE) * size)))]
        knots = np.unique(ordered[ordered <= start])
        at_or_above = size - np.searchsorted(ordered, knots, side="left")
        excess = ordered[ordered > start] - start
        # The mean excess is the maximum-likelihood scale of an exponential tail. Without an excess, any scale is valid.
        scale = float(excess.mean()) if len(excess) else float(np.ptp(ordered))
        return cls(name, knots, -np.log((1 + at_or_above) / (size + 1)), 1 / scale if scale > 0 else 1.0)

    def surprisal(self, values: NDArray[Any]) -> Floats:
        """The surprisal of each value, `[B]`, in nats.

        Args:
            values: `[B]`, the score as in the result column.
        """
        oriented = orient(self.name, values)
        beyond = np.maximum(oriented - self.knots[-1], 0)
        within: Floats = np.interp(oriented, self.knots, self.surprisals)
        total: Floats = within + self.slope * beyond
        return total

    def value_at(self, surprisal: Floats) -> Floats:
        """The oriented value at which a surprisal is reached, `[B]`; -inf if every value has at least this surprisal.

        Args:
            surprisal: `[B]`, in nats.
        """
        beyond = np.maximum(surprisal - self.surprisals[-1], 0) / self.slope
        value: Floats = np.interp(surprisal, self.surprisals, self.knots)
        reached: Floats = np.where(surprisal <= self.surprisals[0], -np.inf, value + beyond)
        return reached


def combine(surprisals: Sequence[Floats], rows: int) -> Floats:
    """The Euclidean norm of several surprisals, `[B]`, in nats; 0 for no surprisals.

    The norm is between the sum (Fisher 1932, sec. 21.1), to which many moderate surprisals contribute as much as one
    large surprisal, and the maximum, which ignores all surprisals but the largest. `benchmarks/colour.py` compares the
    three.

    Args:
        surprisals: surprisals of each detector, `[B]`, in nats.
        rows: number of rows, B.
    """
    total: Floats = np.zeros(rows)
    for one in surprisals:
        total = total + one**2
    norm: Floats = np.sqrt(total)
    return norm


@dataclass(frozen=True)
class CombinedScore:
    """Euclidean norm of the surprisals of several detectors.

    The scores of one row are dependent, so the distribution of the norm is unknown. The norm is therefore used
    only as a score, whose p-value comes from its rank in a calibration set (`screen.decide.calibration`).

    Attributes:
        detectors: the fitted detectors, at least one.
    """

    detectors: tuple[Detector, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores that are combined."""
        return tuple(detector.name for detector in self.detectors)

    def surprisals(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """Surprisals of the D detectors, `[B, D]`, in nats.

        Args:
            scores: values of each score by name, `[B]`.
        """
        return np.stack([detector.surprisal(scores[detector.name]) for detector in self.detectors], axis=1)

    def score(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """The combined score, `[B]`, in nats.

        Args:
            scores: values of each score by name, `[B]`.
        """
        surprisals = [detector.surprisal(scores[detector.name]) for detector in self.detectors]
        return combine(surprisals, len(surprisals[0]))
