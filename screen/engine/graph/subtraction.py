"""Subtraction: compute a masked product as the full product minus the part of the dropped features.

With inverted dropout at rate p, `(x * m) W` equals `(x W - x_D W_D) / (1 - p)`, where D are the features that the pass
drops. `x W` is the same in every pass, so the trunk computes it. `x_D W_D` takes a fraction p of the arithmetic of
`x W`, and the product of the kept features takes 1 - p, which is more for p below one half. The result equals the
masked product up to rounding, and the rounding does not depend on the other rows.

A pass gathers its dropped features from `x` transposed, `[F, B]`, where each feature is contiguous in memory.
Gathering them from `[B, F]` would cost more than the product saves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GATHER_COST = 24
"""Cost of gathering one dropped feature, as an equivalent number of outputs of the product. For 8 to 512 outputs and
rates of 0.1 to 0.5, a pass was measured to take about `rate * (1 + 24 / outputs)` times as long as the full product."""

_PAYS_BELOW = 0.9
"""Maximum time of a pass at which subtraction is used, relative to the full product."""

_ROUND_TO = 16
"""Multiple to which the number of dropped features is rounded up, so that session runs have few distinct shapes."""


def subtraction_pays(rate: float, outputs: float) -> bool:
    """Whether a pass by subtraction takes less than `_PAYS_BELOW` of the time of the full product.

    Args:
        rate: dropout rate, the expected fraction of the features that a pass drops.
        outputs: number of outputs of the product that a pass needs.
    """
    return rate * (1 + _GATHER_COST / max(outputs, 1)) < _PAYS_BELOW


def choose_dropped(masks: NDArray[np.float32], rate: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The features that each pass drops, padded to the same number D for all passes.

    Args:
        masks: `[P, F]`, 0 for dropped features.
        rate: dropout rate.

    Returns:
        Indices of the features `[P, D]` and factors for their weights `[P, D]`: `1 / (1 - rate)` for dropped features,
        0 for padding.
    """
    by_pass = [np.flatnonzero(mask == 0) for mask in masks]
    most_dropped = max(map(len, by_pass), default=0)
    count = max(1, min(masks.shape[1], -(-most_dropped // _ROUND_TO) * _ROUND_TO))
    dropped = np.zeros((len(masks), count), np.int64)
    scale = np.zeros((len(masks), count), np.float32)
    for index, features in enumerate(by_pass):
        dropped[index, : len(features)] = features
        scale[index, : len(features)] = np.float32(1 / (1 - rate))
    return dropped, scale
