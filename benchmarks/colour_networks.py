"""CIFAR-10 networks for measurements of detection: two existing Keras files, and one network that is trained here.

In: MODELS, a folder with the existing files; DATA/cifar10_train_jpeg. Out: Keras files and exported models in WORK.
`LastLayer` gives features and logits of a network without dropout, as detectors of other packages need them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.colour_sets import SIZE, Images, Labels, read_rgb
from export.exporter import export_model
from export.source.describe import import_keras

NETWORKS = {"cifar10_classic": 1 / 255, "cifar10_resnet8": 1.0, "vgg": 1.0}
"""Scale of the pixels, by the name of the network; all networks except `vgg` are existing files."""

EPOCHS = 12
_LAST_EPOCHS = 3
"""Number of epochs at the end with a lower learning rate."""

_RATES = (1e-3, 2e-4)
"""Learning rates of Adam: in the first epochs, and in the last epochs."""

_MAX_MOVE = 3
"""Maximum shift of a training image along each axis, in pixels."""

_SEED = 3


def find_network(name: str, models: Path, data: Path, work: Path) -> tuple[Path, Path]:
    """Keras file and exported model of a network; an existing export is reused, and `vgg` is trained once."""
    keras_file = (work if name == "vgg" else models) / f"{name}.keras"
    keras = import_keras()
    if not keras_file.exists():
        train_vgg(*read_rgb(data / "cifar10_train_jpeg"), epochs=EPOCHS).save(keras_file)
    exported = work / f"{name}.onnx"
    if not exported.exists():
        export_model(keras.models.load_model(keras_file), exported, scale=NETWORKS[name])
    return keras_file, exported


def build_vgg() -> Any:
    """An untrained VGG-like `keras.Model` from pixels in 0..255 to probabilities, with dropout after every block."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for channels, rate in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Dropout(rate)(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.5)(layers.Dense(128, activation="relu")(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x), name="vgg")


def train_vgg(images: Images, labels: Labels, epochs: int) -> Any:
    """The network of `build_vgg`, trained with Adam on randomly flipped and shifted images.

    Args:
        images: `uint8 [N, 32, 32, 3]`.
        labels: `[N]`, classes 0 to 9.
        epochs: number of passes over the images; the last three have a lower learning rate.
    """
    keras = import_keras()
    keras.utils.set_random_seed(_SEED)
    model = build_vgg()
    model.compile(keras.optimizers.Adam(_RATES[0]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(_SEED)
    for epoch in range(epochs):
        model.optimizer.learning_rate = _RATES[epoch >= epochs - _LAST_EPOCHS]
        history = model.fit(augment(images, rng), labels, batch_size=64, epochs=1, verbose=0)
        print(
            f"vgg: epoch {epoch + 1} of {epochs}: accuracy {history.history['accuracy'][-1]:.3f} (dropout on)",
            flush=True,
        )
    return model


def augment(images: Images, rng: np.random.Generator) -> Images:
    """Copies of the images, half of them flipped, and each moved by up to `_MAX_MOVE` pixels; edges are reflected."""
    flipped = np.where(rng.random((len(images), 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
    margin = (_MAX_MOVE, _MAX_MOVE)
    padded = np.pad(flipped, ((0, 0), margin, margin, (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE), axis=(1, 2))
    down, right = rng.integers(0, 2 * _MAX_MOVE + 1, (2, len(images)))
    moved: Images = np.moveaxis(windows[np.arange(len(images)), down, right], 1, -1)
    return moved


@dataclass(frozen=True)
class LastLayer:
    """The last linear layer of a classifier, and the network before it, without dropout.

    Attributes:
        weight: `[C, F]`, weights of the layer.
        bias: `[C]`, bias of the layer.
        trunk: Keras model from scaled pixels to the input of the layer, `[N, F]`.
        scale: factor of the pixels.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    trunk: Any
    scale: float

    @classmethod
    def read(cls, keras_file: Path, scale: float) -> LastLayer:
        """Read a Keras file whose last layer is a Dense layer with softmax."""
        keras = import_keras()
        model = keras.models.load_model(keras_file)
        layer = model.layers[-1]
        weight, bias = layer.get_weights()
        return cls(weight.T, bias, keras.Model(model.inputs, layer.input), scale)

    def features(self, images: Images) -> NDArray[np.float32]:
        """Input of the layer in one deterministic pass, `[N, F]`."""
        scaled = images * np.float32(self.scale)
        features: NDArray[np.float32] = self.trunk.predict(scaled, batch_size=256, verbose=0)
        return features

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output of the layer before softmax, `[N, C]`."""
        logits: NDArray[np.float32] = features @ self.weight.T + self.bias
        return logits
