"""Make features comparable for a Euclidean distance: logarithms of standard deviations, then standardization.

In: features `float32 [B, F]`. Out: transformed features of the same shape. The transform is elementwise, so the result
of a row does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEVIATION_FLOOR = 0.05
"""Floor f of a standard deviation v in ln(1 + v / f), relative to the mean of v over the reference set; also the
fraction of the mean deviation of all features that is added to the deviation of each feature before standardization, so
that nearly constant features do not dominate."""


@dataclass(frozen=True)
class Transform:
    """Makes features comparable for a Euclidean distance: logarithms of standard deviations, then standardization.

    A feature v with the floor f > 0 becomes ln(1 + v / f), so that half of the usual contrast is about as far from the
    usual contrast as twice the usual contrast. A feature with f = 0 stays v. The result is standardized: the mean of
    the reference set is subtracted, and the difference is divided by the standard deviation in the reference set plus
    `DEVIATION_FLOOR` times the mean standard deviation of all features.

    Attributes:
        floor: `float32 [F]`, f of each feature; 0 or more.
        shift: `float32 [F]`, subtracted from each feature after the logarithm.
        scale: `float32 [F]`, factor by which the difference is multiplied.
    """

    floor: NDArray[np.float32]
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], deviations: int) -> Transform:
        """Fit the transform to the reference set.

        Args:
            features: `[N, F]`.
            deviations: number of features at the end of the vector that are standard deviations.
        """
        floor: NDArray[np.float32] = np.zeros(features.shape[1], np.float32)
        if deviations:
            usual = features[:, -deviations:].mean(axis=0, dtype=np.float64)
            floor[-deviations:] = DEVIATION_FLOOR * np.where(usual > 0, usual, 1)
        values = _take_logarithms(features, floor).astype(np.float64)
        deviation = values.std(axis=0)
        scale = deviation + DEVIATION_FLOOR * deviation.mean()
        reciprocal = 1 / np.where(scale > 0, scale, 1)
        return cls(floor, values.mean(axis=0).astype(np.float32), reciprocal.astype(np.float32))

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The transformed features, `[B, F]`."""
        applied: NDArray[np.float32] = (_take_logarithms(features, self.floor) - self.shift) * self.scale
        return applied


def normalize(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features `[B, F]` divided by their Euclidean length; rows of length 0 stay 0."""
    length = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1, keepdims=True))
    unit: NDArray[np.float32] = (features / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def _take_logarithms(features: NDArray[np.float32], floor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features, with ln(1 + v / f) instead of v where the floor f is above 0."""
    taken = features.copy()
    chosen = np.flatnonzero(floor > 0)
    # float64, because numpy's float32 logarithm may round differently at other positions of an array
    ratio = np.maximum(features[:, chosen], 0).astype(np.float64) / floor[chosen]
    taken[:, chosen] = np.log1p(ratio).astype(np.float32)
    return taken
