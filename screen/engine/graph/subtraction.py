"""Products of which a pass needs only the dropped part, because the rest is subtraction.

With inverted dropout at rate p, `(x * m) W` equals `(x W - x_D W_D) / (1 - p)`, where D are the
features that the pass drops. `x W` is the same in every pass, so it belongs to the trunk; `x_D W_D`
is the p-th part of a product, and for p up to one half the smaller part of it. The numbers are those
of the whole product up to rounding, and the rounding does not depend on the rows beside it.

A pass picks its features out of `x` transposed, `[F, B]`: there a feature of all rows is one piece of
memory. Picked out of `[B, F]` they would cost more than the product saves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GATHER_COST = 24
"""What picking the dropped features costs, in outputs of the product: measured for 8 to 512 outputs
and rates of 0.1 to 0.5, the time of a pass is about `rate * (1 + 24 / outputs)` times that of the whole."""

_PAYS_BELOW = 0.9

_ROUND_TO = 16
"""Features are taken in multiples of this, so that runs differ less in shape."""


def subtraction_pays(rate: float, outputs: float) -> bool:
    """Whether a pass takes less time for the dropped features alone.

    Args:
        rate: share of the features that a pass drops.
        outputs: how many outputs of the product a pass needs.
    """
    return rate * (1 + _GATHER_COST / max(outputs, 1)) < _PAYS_BELOW


def choose_dropped(masks: NDArray[np.float32], rate: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The features that each pass drops, filled up to the same number for all.

    Args:
        masks: `[P, F]`, 0 for what is dropped.
        rate: of the dropout.

    Returns:
        Indices `[P, D]`, and what their weights are multiplied by, `[P, D]`: `1 / (1 - rate)` for the
        dropped features, 0 for the fill.
    """
    found = [np.flatnonzero(mask == 0) for mask in masks]
    most = max(map(len, found), default=0)
    count = max(1, min(masks.shape[1], -(-most // _ROUND_TO) * _ROUND_TO))
    dropped = np.zeros((len(masks), count), np.int64)
    scale = np.zeros((len(masks), count), np.float32)
    for index, features in enumerate(found):
        dropped[index, : len(features)] = features
        scale[index, : len(features)] = np.float32(1 / (1 - rate))
    return dropped, scale
