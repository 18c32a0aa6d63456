"""Record the inputs of BatchNormalization layers, whose mean and variance the layers learned in training.

In: calls of BatchNormalization layers in a trace. Out: a `NormInputs` for each call, which shows whether a layer
receives values of the same scale as in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NormInputs:
    """Statistics of the inputs of one call of a BatchNormalization layer, for each of its K channels.

    Attributes:
        variance: variance in this pass, over rows and positions, `[K]`.
        learned_mean: moving mean of the layer, `[K]`.
        learned_variance: moving variance of the layer, `[K]`.
    """

    variance: NDArray[np.float32]
    learned_mean: NDArray[np.float32]
    learned_variance: NDArray[np.float32]

    @property
    def is_trained(self) -> bool:
        """Whether the statistics differ from their initial values, 0 and 1."""
        return bool(np.any(self.learned_mean != 0) or np.any(self.learned_variance != 1))

    @property
    def gain(self) -> float | None:
        """Standard deviation of the inputs divided by the learned one: the median over the channels that vary."""
        varies = (self.variance > 0) & (self.learned_variance > 0)
        if not varies.any():
            return None
        return float(np.median(np.sqrt(self.variance[varies] / self.learned_variance[varies])))


@contextmanager
def norms_recorded() -> Iterator[list[tuple[Any, Any, Any]]]:
    """Within the block, calls of BatchNormalization layers add the tensors of a `NormInputs` to the list."""
    import keras

    found: list[tuple[Any, Any, Any]] = []
    kind = keras.layers.BatchNormalization
    original = kind.call

    def recorded(layer: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        rank = len(inputs.shape)
        variance = keras.ops.var(inputs, axis=[axis for axis in range(rank) if axis != layer.axis % rank])
        learned = (keras.ops.convert_to_tensor(one) for one in (layer.moving_mean, layer.moving_variance))
        found.append((variance, *learned))
        return original(layer, inputs, *arguments, **keywords)

    kind.call = recorded
    try:
        yield found
    finally:
        kind.call = original
