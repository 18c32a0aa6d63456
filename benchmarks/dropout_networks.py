"""Pairs of small networks for measurements of the effect of dropout: one trained with dropout, one without.

In: DATA/mnist/train and DATA/cifar10_train_jpeg. Out: weights in WORK, trained once, and exported models with dropout
at the locations of the training, at other locations, or without an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.colour_networks import augment
from benchmarks.colour_sets import read_rgb
from benchmarks.sets import read_folder
from export.contract.metadata import DOMAIN
from export.contract.reader import read_model
from export.exporter import export_model
from export.source.describe import import_keras

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SCALE = 1 / 255
"""Factor of the pixels."""

Rates = Mapping[str, float]
"""Rates of dropout by location: `blocks`, after the pooling of each block; `classifier`, before the last layer."""

NONE: Rates = {}


@dataclass(frozen=True)
class Task:
    """A data set with the network that classifies it.

    Attributes:
        shape: height, width and channels of an image.
        channels: number of channels of the convolution of each block.
        norm: whether BatchNormalization follows each convolution.
        units: number of units of the hidden dense layer.
        trained: rates of the network that is trained with dropout.
        injected: rates of the dropout injected into the network that is trained without dropout, by location.
        epochs: number of passes over the training images.
        fewest: number of epochs at the end with a lower learning rate.
        read: function that reads images and labels from a folder of shards.
        folder: folder of the training images in DATA.
        moves: whether training images are flipped and moved at random.
    """

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    norm: bool
    units: int
    trained: Rates
    injected: Mapping[str, tuple[float, ...]]
    epochs: int
    fewest: int
    read: Callable[[Path], tuple[Images, Labels]]
    folder: str
    moves: bool


TASKS = {
    "MNIST": Task(
        (28, 28, 1),
        (16, 32),
        norm=False,
        units=64,
        trained={"blocks": 0.25, "classifier": 0.5},
        injected={"classifier": (0.1, 0.3, 0.5), "blocks": (0.1, 0.3, 0.5)},
        epochs=4,
        fewest=1,
        read=read_folder,
        folder="mnist/train",
        moves=False,
    ),
    "CIFAR-10": Task(
        (32, 32, 3),
        (24, 48, 96),
        norm=True,
        units=96,
        trained={"blocks": 0.1, "classifier": 0.3},
        injected={"classifier": (0.1, 0.3, 0.5), "blocks": (0.1,)},
        epochs=14,
        fewest=4,
        read=read_rgb,
        folder="cifar10_train_jpeg",
        moves=True,
    ),
}
_RATES = (1e-3, 2e-4)
"""Learning rates of Adam: in the first epochs, and in the last epochs."""

_BATCH = 128


def build(task: Task, rates: Rates) -> Any:
    """An untrained `keras.Model` from scaled pixels to probabilities, with dropout at the locations of `rates`."""
    keras = import_keras()
    layers = keras.layers
    image = x = keras.Input(task.shape)
    for index, channels in enumerate(task.channels):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=not task.norm)(x)
        x = layers.MaxPooling2D()(x)
        x = layers.ReLU()(layers.BatchNormalization()(x) if task.norm else x)
        if "blocks" in rates:
            x = layers.Dropout(rates["blocks"], name=f"block_{index}")(x)
    x = layers.Dense(task.units, activation="relu")(layers.Flatten()(x))
    if "classifier" in rates:
        x = layers.Dropout(rates["classifier"], name="classifier")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def train(task: Task, rates: Rates, data: Path, seed: int, weights: Path) -> None:
    """Train a network with Adam, and write its weights, unless the file exists."""
    if weights.exists():
        return
    keras = import_keras()
    images, labels = task.read(data / task.folder)
    keras.utils.set_random_seed(seed)
    model = build(task, rates)
    model.compile(keras.optimizers.Adam(_RATES[0]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(seed)
    for epoch in range(task.epochs):
        model.optimizer.learning_rate = _RATES[epoch >= task.epochs - task.fewest]
        shown = augment(images, rng) if task.moves else images
        history = model.fit(shown * np.float32(SCALE), labels, batch_size=_BATCH, verbose=0).history
        print(f"{weights.name}: epoch {epoch + 1} of {task.epochs}: {history['accuracy'][-1]:.3f}", flush=True)
    staged = weights.with_name("staged.weights.h5")
    model.save_weights(staged)
    staged.rename(weights)


def export(task: Task, weights: Path, training: Rates, places: Rates, output: Path) -> None:
    """Export trained weights with dropout at the given locations, unless the file exists.

    Args:
        task: the data set and its network.
        weights: file that `train` wrote.
        training: rates of dropout in the training.
        places: rates of dropout in the exported network; as Dropout layers have no weights, the weights fit.
        output: ONNX file to write.
    """
    if output.exists():
        return
    trained = build(task, training)
    trained.load_weights(weights)
    model = build(task, places)
    model.set_weights(trained.get_weights())
    export_model(model, output, scale=SCALE)


def set_rate(model: Path, rate: float, output: Path) -> None:
    """Write a copy of an exported model with one rate at all its sites, in the graph and in its contract."""
    import onnx

    contract = read_model(model).contract
    changed = replace(contract, sites=tuple(replace(site, rate=rate) for site in contract.sites))
    proto = onnx.load(model)
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            (attribute,) = (one for one in node.attribute if one.name == "rate")
            attribute.f = rate
    onnx.helper.set_model_props(proto, changed.to_metadata())
    onnx.save(proto, output)
