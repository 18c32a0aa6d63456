"""Custom Keras classes for `--custom-objects tests.export.custom:NAME`."""

from __future__ import annotations

from typing import Any

import keras


class Subclassed(keras.Model):  # type: ignore[misc]
    """A subclassed model with its dropout layers in a list attribute."""

    def __init__(self, classes: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.convolutions = [keras.layers.Conv2D(8, 3, activation="relu") for _ in range(2)]
        self.drops = [keras.layers.Dropout(0.2, name="first"), keras.layers.Dropout(0.4, name="second")]
        self.pool = keras.layers.GlobalMaxPooling2D()
        self.top = keras.layers.Dense(classes, activation="softmax")

    def call(self, inputs: Any, training: Any = None) -> Any:
        x = inputs
        for convolution, drop in zip(self.convolutions, self.drops, strict=True):
            x = drop(convolution(x), training=training)
        return self.top(self.pool(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}


class PositionEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Adds a learned vector to each token."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, inputs: Any) -> Any:
        return inputs + self.table


class GatedDropout(keras.layers.Dropout):  # type: ignore[misc]
    """A dropout subclass with operations around its parent's call, always active."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return inputs + 0.5 * super().call(2.0 * inputs, training=True)


class NoisyLayer(keras.layers.Layer):  # type: ignore[misc]
    """A layer that always draws random numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)


class TrainedNoise(keras.layers.Layer):  # type: ignore[misc]
    """A layer that draws random numbers in training."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs: Any, training: Any = None) -> Any:
        return keras.random.dropout(inputs, 0.2, seed=self.seeds) if training else inputs


class KeptNoise(keras.layers.Layer):  # type: ignore[misc]
    """A layer that draws its noise in a layer of Keras."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise = keras.layers.GaussianDropout(0.2)

    def call(self, inputs: Any) -> Any:
        return self.noise(inputs)
