"""Compare values of an exported graph with those of a pass of the source model, up to the rounding of float32.

In: the outputs and the values before the last activation of the graph and of the pass. Out: the largest relative
difference, or `VerificationFailed`. Some networks amplify rounding errors, for example by a mean over many positions, a
small learned variance or a steep activation. If a difference exceeds the tolerance, the rounding error of the source
model is measured, and the tolerance is raised for the rows with a large rounding error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import VerificationFailed
from export.model_source import SourcePass

Values = NDArray[np.float32]
OtherRoundings = Callable[[], Sequence[SourcePass]]
"""Function that repeats a pass with other rounding errors; see `export.model_source.Reference.other_roundings`."""

TOLERANCE = 1e-4
"""Maximum difference of values before the last activation, and of outputs without a last activation, relative to their
range over the images; and of outputs behind a softmax or sigmoid, relative to 1. A large bias does not widen the range,
so it does not hide differences."""

_ROUNDED = 8 * 2.0**-23
"""Difference that is always allowed for rounding, relative to the largest absolute value."""

ROUNDING_FACTOR = 10.0
"""Maximum ratio of a difference above the tolerance to the measured rounding error of the source model."""

_MOST_ROUNDING = 0.01
"""Relative rounding error above which a row is not compared, because rounding in float32 dominates its values."""

_SMALLEST_SCALE = 1e-30
"""Minimum divisor of differences, because processors may replace values below 1e-38 by 0."""


@dataclass(frozen=True)
class Found:
    """Values of an exported graph.

    Attributes:
        outputs: `[B, C]`.
        before_activation: values before the last softmax or sigmoid, `[B, ...]`; None if the graph ends otherwise.
    """

    outputs: Values
    before_activation: Values | None


def compare(found: Found, keras: SourcePass, other_roundings: OtherRoundings, how: str) -> float:
    """The largest difference from a pass of the source model, relative to the scale of the values.

    Rows for which the source model computes values that are not finite are not compared, because a network may divide
    by the contrast of an image.

    Args:
        found: values of the exported graph.
        keras: pass of the source model with the same images and noise.
        other_roundings: function that repeats this pass with other rounding errors; called only if a difference exceeds
            the tolerance.
        how: condition of the comparison, such as `Without dropout`, for messages.

    Raises:
        VerificationFailed: a row differs by more than rounding explains, or no row can be compared.
    """
    compared = [("an output", "outputs", 0.0)]
    if found.before_activation is not None and keras.before_activation is not None:
        compared = [("an output", "outputs", 1.0), ("a value before the last activation", "before_activation", 0.0)]
    others: Sequence[SourcePass] | None = None
    largest = 0.0
    for what, name, floor in compared:
        ours, wanted = getattr(found, name), _rows(getattr(keras, name))
        usable = np.isfinite(wanted).all(axis=1)
        scale = scale_of(wanted[usable], floor)
        difference = difference_by_row(ours, wanted, scale)
        tolerance = TOLERANCE * min(1.0, max(floor, _range_of(wanted[usable])) / scale) + _ROUNDED
        rounding = np.where(usable, 0.0, np.inf)
        if np.any(difference[usable] > tolerance):
            others = other_roundings() if others is None else others
            rounding = np.max([difference_by_row(getattr(other, name), wanted, scale) for other in others], axis=0)
        usable &= rounding <= _MOST_ROUNDING
        if not usable.any():
            raise VerificationFailed(
                f"{how}, {what} of the source model is not finite, or changes by {rounding.min():.2g} or more, "
                "relative to the largest value, with rounding in float32 alone; this holds for every test image.",
                wanted=f"finite values that rounding changes by at most {_MOST_ROUNDING:g}",
                next_step="scale the weights of the layers that amplify rounding errors, such as steep activations "
                "behind large weights, or divisions by values near 0",
            )
        exceeds = usable & (difference > np.maximum(tolerance, ROUNDING_FACTOR * rounding))
        if exceeds.any():
            raise VerificationFailed(
                f"{how}, {what} differs from the source model by {difference[exceeds].max():.2g}, relative to the "
                "largest value.",
                wanted=f"at most {tolerance:.2g}, or {ROUNDING_FACTOR:g} times the rounding error of the source model",
                next_step="export only the first layers of the model, then more of them, to find the layer whose "
                "output differs; replace this layer",
            )
        largest = max(largest, float(difference[usable].max()))
    return largest


def scale_of(values: Values, floor: float) -> float:
    """The largest absolute value, at least `floor`."""
    return max(floor, float(np.abs(values).max(initial=0.0)), _SMALLEST_SCALE)


def _range_of(values: Values) -> float:
    """Largest distance of a value from the mean of its column; for a single row, the largest absolute value."""
    centre = values.mean(axis=0, dtype=np.float64) if len(values) > 1 else 0.0
    return float(np.abs(values - centre).max(initial=0.0))


def difference_by_row(ours: Values, wanted: Values, scale: float) -> NDArray[np.float64]:
    """Largest difference of each row, divided by `scale`, `[B]`; infinite if the shapes differ or a value is NaN."""
    ours, wanted = _rows(ours), _rows(wanted)
    if ours.shape != wanted.shape:
        return np.full(len(wanted), np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(ours.astype(np.float64) - wanted).max(axis=1) / scale
    return np.where(np.isnan(difference), np.inf, difference)


def _rows(values: Values) -> Values:
    return values.reshape(len(values), -1)
