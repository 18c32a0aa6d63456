"""Compute statistics of T passes from the statistics of session runs, by pure functions without a session or I/O.

In: the head's outputs for each session run of P passes. Out: a `PassSummary`. Axes: T passes, B rows, C outputs. The
statistics of session runs are merged in float64.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import Task
from screen.engine.graph.reduction import ENERGY, ENTROPY, M2, M3, M4, MEAN, VOTES

Floats = NDArray[np.float64]

MIN_STD = 1e-6
"""Standard deviation below which skewness and kurtosis are defined as 0, because rounding errors would determine their
values."""


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of P passes; a statistic that is not defined for the output kind is None.

    Attributes:
        passes: P, the number of passes.
        mean: `[B, C]`, mean over passes of the probabilities (of the values, for a regression).
        m2, m3, m4: `[B, C]`, sums over passes of the 2nd, 3rd and 4th power of the deviation from `mean`.
        votes: `[B, C]`, number of passes that predict the class (without classes: with a probability above 0.5).
        entropy: `[B]`, sum over passes of the entropy, nats.
        energy: `[B]`, sum over passes of the energy, nats.
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
        """The statistics of one session run of P passes, from the head's outputs by name."""

        def double(name: str) -> Floats | None:
            return outputs[name].astype(np.float64) if name in outputs else None

        mean, m2, m3, m4 = (outputs[name].astype(np.float64) for name in (MEAN, M2, M3, M4))
        terms = double(ENTROPY)
        entropy = None if terms is None else terms.reshape(len(terms), -1).sum(axis=1)
        return cls(passes, mean, m2, m3, m4, double(VOTES), entropy, double(ENERGY))

    def take(self, rows: NDArray[np.bool_]) -> RunStatistics:
        """The statistics of the rows that a boolean mask `[B]` selects."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            array = getattr(self, field.name)
            taken[field.name] = array if array is None or field.name == "passes" else array[rows]
        return RunStatistics(**taken)

    @classmethod
    def join(cls, parts: list[RunStatistics]) -> RunStatistics:
        """Concatenate the rows of several `RunStatistics` over the same passes."""
        joined: dict[str, Any] = {"passes": parts[0].passes}
        for field in fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            if field.name != "passes":
                joined[field.name] = None if columns[0] is None else np.concatenate(columns)
        return cls(**joined)

    def merge(self, other: RunStatistics) -> RunStatistics:
        """Merge the statistics of different passes of the same rows (Pébay 2008, SAND2008-6212, eqs. 2.1 to 2.4)."""
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
    """Statistics of the passes over B rows; a statistic that is not defined for the output kind is None.

    Attributes:
        passes: `[B]`, number of completed passes of the row.
        mean: `[B, C]`, predictive mean.
        std: `[B, C]`, standard deviation over passes, ddof 0.
        largest_std: `[B]`, maximum of `std` over the C outputs.
        prediction: `[B]`, the predicted class (for a single probability: 1 if its mean is above 0.5, else 0).
        confidence: `[B]`, mean probability of the prediction.
        entropy: `[B]`, predictive entropy H(E p), nats; for several labels, the sum over the labels.
        expected_entropy: `[B]`, E H(p), nats; for several labels, the sum over the labels.
        mutual_information: `[B]`, `entropy - expected_entropy` (Houlsby et al. 2011, eq. 2), nats.
        variation_ratio: `[B]`, fraction of passes whose class differs from the most frequent class; for several
            labels, the mean over the labels.
        prediction_std, skewness, kurtosis: `[B]`, standard deviation, skewness and excess kurtosis over passes of the
            prediction's probability.
        energy: `[B]`, mean over passes of -logsumexp(logits), nats.
        largest_label_entropy: `[B]`, for several labels: maximum over the labels of the label's entropy, nats.
        layout_distance, contrast_distance, penultimate_distance: `[B]`, distances of the row's features from the
            reference set (see `screen.engine.distance`).
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
    layout_distance: Floats | None = None
    contrast_distance: Floats | None = None
    penultimate_distance: Floats | None = None

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> PassSummary:
        """The summary of the rows that a boolean mask `[B]` selects, or of the rows at given positions in order."""
        taken: dict[str, Any] = {}
        for field in fields(self):
            array = getattr(self, field.name)
            taken[field.name] = None if array is None else array[rows]
        return PassSummary(**taken)

    def drop(self, rows: Collection[int]) -> PassSummary:
        """The summary without the rows at the given positions."""
        return self.take(np.delete(np.arange(len(self.mean)), list(rows))) if rows else self


def concatenate(summaries: list[PassSummary]) -> PassSummary:
    """Concatenate the rows of several summaries."""
    joined: dict[str, Any] = {}
    for field in fields(PassSummary):
        parts = [getattr(summary, field.name) for summary in summaries]
        joined[field.name] = None if parts[0] is None else np.concatenate(parts)
    return PassSummary(**joined)


def summarize(runs: RunStatistics, task: Task) -> PassSummary:
    """The summary of B rows, from the merged statistics of their passes.

    Args:
        runs: merged statistics of all completed passes.
        task: meaning of the model's outputs.
    """
    passes = np.full(len(runs.mean), runs.passes, np.int32)
    std = np.sqrt(np.maximum(runs.m2, 0) / runs.passes)
    energy = None if runs.energy is None else runs.energy / runs.passes
    if task == "values" or runs.votes is None or runs.entropy is None:
        return PassSummary(passes, runs.mean, std, std.max(axis=1))

    expected = runs.entropy / runs.passes
    share = runs.votes / runs.passes
    if task == "classes":
        entropy = -_p_log_p(runs.mean).sum(axis=1)
        disagreement = 1 - share.max(axis=1)
    else:
        label_entropy = _bernoulli_entropy(runs.mean)
        entropy = label_entropy.sum(axis=1)
        disagreement = np.minimum(share, 1 - share).mean(axis=1)
    common = {
        "entropy": entropy,
        "expected_entropy": expected,
        # Non-negative by Jensen's inequality, but the two terms are rounded separately.
        "mutual_information": np.maximum(entropy - expected, 0),
        "variation_ratio": disagreement,
        "energy": energy,
    }
    if task == "labels":
        return PassSummary(
            passes, runs.mean, std, std.max(axis=1), largest_label_entropy=label_entropy.max(axis=1), **common
        )

    rows = np.arange(len(runs.mean))
    if task == "binary":
        column = np.zeros(len(rows), np.int64)
        prediction = (runs.mean[:, 0] > 0.5).astype(np.int32)
        confidence = np.maximum(runs.mean[:, 0], 1 - runs.mean[:, 0])
    else:
        column = runs.mean.argmax(axis=1)
        prediction = column.astype(np.int32)
        confidence = runs.mean[rows, column]
    skewness, kurtosis = _skewness_and_kurtosis(runs, std, rows, column)
    return PassSummary(
        passes,
        runs.mean,
        std,
        std.max(axis=1),
        prediction=prediction,
        confidence=confidence,
        prediction_std=std[rows, column],
        # The probability of a binary "no" is 1 - p, whose skewness has the opposite sign.
        skewness=np.where(prediction == 0, -skewness, skewness) if task == "binary" else skewness,
        kurtosis=kurtosis,
        **common,
    )


def _skewness_and_kurtosis(
    runs: RunStatistics, std: Floats, rows: NDArray[np.int64], column: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis (population forms, g1 and g2), `[B]` each, of one class for each row."""
    spread = std[rows, column]
    moving = spread >= MIN_STD
    scale = np.where(moving, spread, 1.0)
    skewness = runs.m3[rows, column] / runs.passes / scale**3
    kurtosis = runs.m4[rows, column] / runs.passes / scale**4 - 3
    return np.where(moving, skewness, 0.0), np.where(moving, kurtosis, 0.0)


def _p_log_p(p: Floats) -> Floats:
    """`p ln p`; 0 where p is 0."""
    return p * np.log(np.where(p > 0, p, 1.0))


def _bernoulli_entropy(p: Floats) -> Floats:
    return -(_p_log_p(p) + _p_log_p(1 - p))
