"""The MNIST network of the article that this project is based on, for the demo and the benchmarks.

In: images and labels. Out: a trained Keras model of two convolutions, a max pooling, two dense layers and two dropouts.
The dropouts are called with `training=True`, the usual way to write Monte Carlo dropout in Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCALE = 1 / 255
"""Factor that scales a pixel in 0..255 to the network's input in 0..1, as in the article."""


def build_article_network() -> Any:
    """The untrained network, which maps images `float32 [N, 28, 28, 1]` in 0..1 to probabilities `[N, 10]`."""
    import keras

    layers = keras.layers
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, activation="relu")(image)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.25)(x, training=True)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.5)(x, training=True)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x), name="article")


def train_article_network(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    callbacks: list[Any] | None = None,
) -> Any:
    """A new network, trained with Adam on cross-entropy.

    Args:
        images: grey images, `uint8 [N, 28, 28, 1]`.
        labels: class numbers 0 to 9, `[N]`.
        epochs: number of times that the training uses each image.
        seed: seed for weights, shuffling and dropout.
        callbacks: Keras callbacks, such as a progress display.
    """
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    model = build_article_network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images * np.float32(SCALE), labels, epochs=epochs, batch_size=128, verbose=0, callbacks=callbacks or [])
    return model
