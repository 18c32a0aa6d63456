"""Record the variances of the inputs of BatchNormalization layers, and the statistics learned in training.

In: calls of BatchNormalization layers in a trace. Out: a `NormInputs` for each call, which shows whether a layer
receives values of the same scale as in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def norms_recorded() -> Iterator[list[tuple[Any, Any, Any]]]:
    """Within the block, each call of a BatchNormalization layer adds the tensors of a `NormInputs` to the list."""
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
