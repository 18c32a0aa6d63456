"""Four networks with random weights, for measurements of cost.

Their dropout layer is `MCDropout`, a subclass of Dropout that is always called with `training=True`, because
`model.predict` of Keras 3 disables a plain Dropout layer.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from export.source.describe import import_keras

NETWORKS = {
    "article": "Conv32, Conv64, MaxPool, Dropout, Dense128, Dropout, Dense10 on 28 x 28 x 1",
    "mobilenet": "MobileNetV2 on 224 x 224 x 3, 100 classes, one dropout before the classifier",
    "blocks": "six residual blocks of 32 channels on 32 x 32 x 3, dropout in each",
    "blocks-spatial": "three residual blocks of 128 channels on 16 x 16 and three of 256 channels on 8 x 8, "
    "SpatialDropout in each",
}
SHAPES = {"article": (28, 28, 1), "mobilenet": (224, 224, 3), "blocks": (32, 32, 3), "blocks-spatial": (32, 32, 3)}


def build(name: str) -> Any:
    """An untrained `keras.Model` that takes pixels scaled by 1/255."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)

    class MCDropout(layers.Dropout):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any, training: bool | None = None) -> Any:
            return super().call(inputs, training=True)

    class MCSpatialDropout(layers.SpatialDropout2D):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any, training: bool | None = None) -> Any:
            return super().call(inputs, training=True)

    image = keras.Input(SHAPES[name])
    if name == "article":
        x = layers.Conv2D(32, 3, activation="relu")(image)
        x = layers.Conv2D(64, 3, activation="relu")(x)
        x = layers.Flatten()(MCDropout(0.25)(layers.MaxPooling2D()(x)))
        x = MCDropout(0.5)(layers.Dense(128, activation="relu")(x))
        classes = 10
    elif name == "mobilenet":
        base = keras.applications.MobileNetV2(SHAPES[name], include_top=False, weights=None, pooling="avg")
        _fit_batch_statistics(base)
        x = MCDropout(0.2)(base(image))
        classes = 100
    elif name == "blocks-spatial":
        x = layers.Conv2D(128, 3, strides=2, padding="same", activation="relu")(image)
        for channels, strides in ((128, 1), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1)):
            y = layers.Conv2D(channels, 3, strides=strides, padding="same", activation="relu")(x)
            y = layers.Conv2D(channels, 3, padding="same")(MCSpatialDropout(0.5)(y))
            x = layers.Conv2D(channels, 1, strides=strides)(x) if strides > 1 else x
            x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.GlobalAveragePooling2D()(x)
        classes = 10
    else:
        x = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
        for _ in range(6):
            y = MCDropout(0.1)(layers.Conv2D(32, 3, padding="same", activation="relu")(x))
            x = layers.ReLU()(layers.Add()([x, layers.Conv2D(32, 3, padding="same")(y)]))
        x = layers.GlobalAveragePooling2D()(x)
        classes = 10
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x), name=name)


def _fit_batch_statistics(model: Any) -> None:
    """Set the statistics of BatchNormalization from one batch; otherwise activations vanish with random weights."""
    layers = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(np.random.default_rng(0).random((8, *model.input_shape[1:])).astype(np.float32), training=True)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value


def export_article(path: Path, resize: str = "none") -> Path:
    """Export the untrained article network in a separate process, so that the caller does not import TensorFlow."""
    command = [sys.executable, "-m", "benchmarks.networks", str(path), resize]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return path


if __name__ == "__main__":
    from export.exporter import export_model

    export_model(build("article"), Path(sys.argv[1]), scale=1 / 255, resize=sys.argv[2])
