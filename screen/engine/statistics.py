"""The statistics of T passes, from the statistics of their runs. Pure: no session, no I/O.

In: what the head's reductions gave for each run of passes. Out: a `PassSummary`. Axes: T passes, B
rows, C classes. Runs are merged in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.engine.graph.reduction import ENERGY, ENTROPY, M2, M3, M4, MEAN, VOTES

Floats = NDArray[np.float64]

STILL = 1e-6
"""Below this std a distribution has no shape: skewness and kurtosis are 0 by definition. Noise of
one unit in the last place would otherwise decide them."""


@dataclass(frozen=True)
class RunStatistics:
    """What P passes gave, reduced over the passes; `None` where the output kind has no such thing.

    Attributes:
        passes: P.
        mean: `[B, C]`.
        m2, m3, m4: `[B, C]`, sums of powers of the deviation from `mean`.
        votes: `[B, C]`, passes that chose the class.
        entropy: `[B]`, summed over passes, nats.
        energy: `[B]`, summed over passes, nats.
    """

    passes: int
    mean: Floats
    m2: Floats
    m3: Floats
    m4: Floats
    votes: Floats | None = None
    entropy: Floats | None = None
    energy: Floats | None = None

    @classmethod
    def from_outputs(cls, passes: int, outputs: dict[str, NDArray[np.float32]]) -> RunStatistics:
        """From the head's outputs, by name."""

        def double(name: str) -> Floats | None:
            return outputs[name].astype(np.float64) if name in outputs else None

        mean, m2, m3, m4 = (outputs[name].astype(np.float64) for name in (MEAN, M2, M3, M4))
        terms = double(ENTROPY)
        entropy = None if terms is None else terms.reshape(len(terms), -1).sum(axis=1)
        return cls(passes, mean, m2, m3, m4, double(VOTES), entropy, double(ENERGY))

    def take(self, rows: NDArray[np.bool_]) -> RunStatistics:
        """Some of the rows, by a mask `[B]`."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            array = getattr(self, field.name)
            taken[field.name] = array if array is None or field.name == "passes" else array[rows]
        return RunStatistics(**taken)

    @classmethod
    def join(cls, parts: list[RunStatistics]) -> RunStatistics:
        """The rows of several, which had the same passes, one after the other."""
        joined: dict[str, Any] = {"passes": parts[0].passes}
        for field in fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            if field.name != "passes":
                joined[field.name] = None if columns[0] is None else np.concatenate(columns)
        return cls(**joined)

    def merge(self, other: RunStatistics) -> RunStatistics:
        """The statistics of both runs together (Pébay 2008, SAND2008-6212, eqs. 2.1 to 2.4)."""
        a, b = self.passes, other.passes
        n = a + b
        delta = other.mean - self.mean
        step = delta / n
        m2 = self.m2 + other.m2 + delta * step * a * b
        m3 = self.m3 + other.m3 + delta * step**2 * a * b * (a - b) + 3 * step * (a * other.m2 - b * self.m2)
        m4 = (
            self.m4
            + other.m4
            + delta * step**3 * a * b * (a * a - a * b + b * b)
            + 6 * step**2 * (a * a * other.m2 + b * b * self.m2)
            + 4 * step * (a * other.m3 - b * self.m3)
        )
        return RunStatistics(
            n,
            self.mean + step * b,
            m2,
            m3,
            m4,
            _add(self.votes, other.votes),
            _add(self.entropy, other.entropy),
            _add(self.energy, other.energy),
        )


def _add(one: Floats | None, other: Floats | None) -> Floats | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True)
class PassSummary:
    """What T passes say about B rows; `None` where the output kind has no such thing.

    Attributes:
        passes: `[B]`, passes that the row had.
        mean: `[B, C]`, predictive mean.
        std: `[B, C]`, over passes, ddof 0.
        largest_std: `[B]`, the largest of `std`.
        prediction: `[B]`, the predicted class (for one sigmoid output: 1 for yes).
        confidence: `[B]`, probability of the prediction.
        entropy: `[B]`, predictive entropy H(E p), nats.
        expected_entropy: `[B]`, E H(p), nats.
        mutual_information: `[B]`, the difference of the two (Houlsby et al. 2011, eq. 2), nats.
        variation_ratio: `[B]`, share of passes that disagree with the modal vote.
        prediction_std, skewness, kurtosis: `[B]`, of the predicted class; the kurtosis is the excess.
        energy: `[B]`, mean over passes of -logsumexp(logits).
        largest_label_entropy: `[B]`, for several labels: entropy of the least certain one, nats.
        feature_distance: `[B]`, of the trunk's features from those of known rows; with a calibration.
    """

    passes: NDArray[np.int32]
    mean: Floats
    std: Floats
    largest_std: Floats
    prediction: NDArray[np.int32] | None = None
    confidence: Floats | None = None
    entropy: Floats | None = None
    expected_entropy: Floats | None = None
    mutual_information: Floats | None = None
    variation_ratio: Floats | None = None
    prediction_std: Floats | None = None
    skewness: Floats | None = None
    kurtosis: Floats | None = None
    energy: Floats | None = None
    largest_label_entropy: Floats | None = None
    feature_distance: Floats | None = None

    @property
    def is_finite(self) -> NDArray[np.bool_]:
        """`[B]`, whether the row's predictive mean holds neither NaN nor infinity."""
        finite: NDArray[np.bool_] = np.all(np.isfinite(self.mean), axis=1)
        return finite

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> PassSummary:
        """Some of the rows, by a mask `[B]` or by their places, in that order."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            array = getattr(self, field.name)
            taken[field.name] = None if array is None else array[rows]
        return PassSummary(**taken)


def concatenate(summaries: list[PassSummary]) -> PassSummary:
    """The rows of several summaries, one after the other."""
    joined: dict[str, Any] = {}
    for field in fields(PassSummary):
        parts = [getattr(summary, field.name) for summary in summaries]
        joined[field.name] = None if parts[0] is None else np.concatenate(parts)
    return PassSummary(**joined)


def summarize(runs: RunStatistics, output_kind: str) -> PassSummary:
    """Turn merged run statistics into what is reported.

    Args:
        runs: all T passes of B rows, merged.
        output_kind: `softmax` and `logits` have classes, `sigmoid` labels, `regression` values.
    """
    passes = np.full(len(runs.mean), runs.passes, np.int32)
    std = np.sqrt(np.maximum(runs.m2, 0) / runs.passes)
    energy = None if runs.energy is None else runs.energy / runs.passes
    if output_kind == "regression" or runs.votes is None or runs.entropy is None:
        return PassSummary(passes, runs.mean, std, std.max(axis=1))

    expected = runs.entropy / runs.passes
    share = runs.votes / runs.passes
    if output_kind == "sigmoid":
        label_entropy = _bernoulli_entropy(runs.mean)
        entropy = label_entropy.sum(axis=1)
        disagreement = np.minimum(share, 1 - share).mean(axis=1)
    else:
        entropy = -_p_log_p(runs.mean).sum(axis=1)
        disagreement = 1 - share.max(axis=1)
    common = {
        "entropy": entropy,
        "expected_entropy": expected,
        # Both terms are rounded on their own; their difference is never negative (Jensen).
        "mutual_information": np.maximum(entropy - expected, 0),
        "variation_ratio": disagreement,
        "energy": energy,
    }
    if output_kind == "sigmoid" and runs.mean.shape[1] > 1:
        return PassSummary(
            passes, runs.mean, std, std.max(axis=1), largest_label_entropy=label_entropy.max(axis=1), **common
        )

    rows = np.arange(len(runs.mean))
    if output_kind == "sigmoid":
        column = np.zeros(len(rows), np.int64)
        prediction = (runs.mean[:, 0] > 0.5).astype(np.int32)
        confidence = np.maximum(runs.mean[:, 0], 1 - runs.mean[:, 0])
    else:
        column = runs.mean.argmax(axis=1)
        prediction = column.astype(np.int32)
        confidence = runs.mean[rows, column]
    skewness, kurtosis = _shape(runs, std, rows, column)
    return PassSummary(
        passes,
        runs.mean,
        std,
        std.max(axis=1),
        prediction=prediction,
        confidence=confidence,
        prediction_std=std[rows, column],
        # A binary "no" is 1 - p: mirrored, so the skewness changes its sign.
        skewness=np.where(prediction == 0, -skewness, skewness) if output_kind == "sigmoid" else skewness,
        kurtosis=kurtosis,
        **common,
    )


def _shape(
    runs: RunStatistics, std: Floats, rows: NDArray[np.int64], column: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis (population forms, g1 and g2) of one class for each row."""
    spread = std[rows, column]
    moving = spread >= STILL
    scale = np.where(moving, spread, 1.0)
    skewness = runs.m3[rows, column] / runs.passes / scale**3
    kurtosis = runs.m4[rows, column] / runs.passes / scale**4 - 3
    return np.where(moving, skewness, 0.0), np.where(moving, kurtosis, 0.0)


def _p_log_p(p: Floats) -> Floats:
    """`p ln p`, and 0 at 0."""
    return p * np.log(np.where(p > 0, p, 1.0))


def _bernoulli_entropy(p: Floats) -> Floats:
    return -(_p_log_p(p) + _p_log_p(1 - p))
