"""Count the warnings of the export about a wrong pixel scaling, on small networks that are trained here.

    python -m benchmarks.pixel_scale [--data DIR] [--models DIR]

In: DATA, folders of Parquet shards; MODELS, a folder with the CIFAR-10 networks of `benchmarks.colour_networks`. Out:
benchmarks/results/pixel_scale.json: for each network its accuracy in training, the measures of `export.proof.scale`
under the scaling of the training and under a scaling that is wrong by a factor of about 255, and the warnings.

The limits of `export.proof.scale` were chosen on the networks of `CHOOSING` and MODELS; the `REPORTED` networks differ
in data and layers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.colour_networks import NETWORKS
from benchmarks.colour_sets import read_rgb
from benchmarks.sets import read_folder
from export.contract.inputs import PREPROCESSINGS, Preprocessing
from export.proof.scale import find_scale_alarm, make_images, measure_gain, measure_spread
from export.source.describe import describe_model, import_keras
from export.source.network import KerasReference

RESULT = Path(__file__).parent / "results" / "pixel_scale.json"
SCALINGS = {
    "0..255": Preprocessing(1.0),
    "0..1": Preprocessing(1 / 255),
    "-1..1": PREPROCESSINGS["tf"],
    "standardized": Preprocessing(1 / 255, (0.45,), (0.225,)),
}
"""Scaling of the pixels in training, by name."""

_ROWS = 6000
_STEPS = 200
"""Number of batches, of 64 images each, in the training of a network."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one network.

    Attributes:
        group: `choosing` or `reported`.
        name: data and layers of the network.
        scaling: scaling in training, a key of `SCALINGS`.
        accuracy: accuracy on the training images, without dropout.
        normalized: whether the network has BatchNormalization.
        right: gain of the first BatchNormalization, else spread of the logits, under the scaling of the training.
        wrong: the same measure as `right` under a scaling that is wrong by a factor of about 255.
        warned_right: whether the export warns under the scaling of the training.
        warned_wrong: whether the export warns under the wrong scaling.
        warned_near: whether the export warns under a scaling that differs by a factor near 2: 0..1 instead of -1..1, or
            -1..1 instead of 0..1; None for other networks.
    """

    group: str
    name: str
    scaling: str
    accuracy: float
    normalized: bool
    right: float | None
    wrong: float | None
    warned_right: bool
    warned_wrong: bool
    warned_near: bool | None


def _dense(layers: Any, x: Any) -> Any:
    x = layers.Dropout(0.2)(layers.Dense(128, activation="relu")(layers.Flatten()(x)))
    return layers.Dropout(0.3)(layers.Dense(64, activation="relu")(x))


def _one_dense(layers: Any, x: Any) -> Any:
    return layers.Dropout(0.2)(layers.Dense(96, activation="relu")(layers.Flatten()(x)))


def _convolutions(layers: Any, x: Any, activation: str = "relu", channels: tuple[int, ...] = (16, 32)) -> Any:
    for number in channels:
        x = layers.MaxPooling2D()(layers.Conv2D(number, 3, padding="same", activation=activation)(x))
    x = layers.Dense(64, activation=activation)(layers.Flatten()(layers.Dropout(0.25)(x)))
    return layers.Dropout(0.5)(x)


def _normalized(layers: Any, x: Any) -> Any:
    for number in (16, 32):
        x = layers.BatchNormalization()(layers.Conv2D(number, 3, padding="same", use_bias=False)(x))
        x = layers.MaxPooling2D()(layers.ReLU()(x))
    return layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))


def _normalized_after(layers: Any, x: Any) -> Any:
    for number in (12, 24):
        x = layers.BatchNormalization()(layers.Conv2D(number, 5, strides=2, activation="relu")(x))
    return layers.Dropout(0.4)(layers.Dense(48, activation="relu")(layers.Flatten()(x)))


def _normalized_first(layers: Any, x: Any) -> Any:
    return _convolutions(layers, layers.BatchNormalization()(x))


Layers = Callable[[Any, Any], Any]
CHOOSING: tuple[dict[str, Layers], tuple[str, ...]] = (
    {"dense": _dense, "convolutions": _convolutions, "normalized": _normalized},
    ("mnist", "cifar"),
)
REPORTED: tuple[dict[str, Layers], tuple[str, ...]] = (
    {
        "one dense": _one_dense,
        "three convolutions": lambda layers, x: _convolutions(layers, x, channels=(12, 24, 48)),
        "elu": lambda layers, x: _convolutions(layers, x, "elu"),
        "tanh": lambda layers, x: _convolutions(layers, x, "tanh"),
        "normalized after": _normalized_after,
        "normalized first": _normalized_first,
    },
    ("notmnist", "fashion"),
)


def _read(data: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    folder = {"mnist": "mnist/train", "cifar": "cifar10_train_jpeg", "fashion": "fashion_mnist"}.get(name, name)
    images, labels = read_rgb(data / folder) if name == "cifar" else read_folder(data / folder)
    return images[:_ROWS], labels[:_ROWS]


def _train(images: NDArray[np.uint8], labels: NDArray[np.int64], layers: Layers, scaling: Preprocessing) -> Any:
    keras = import_keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    image = keras.Input(images.shape[1:])
    outputs = keras.layers.Dense(10, activation="softmax")(layers(keras.layers, image))
    model = keras.Model(image, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    order = np.resize(np.random.default_rng(7).permutation(len(images)), 64 * _STEPS)
    model.fit(scaling.apply(images)[order], labels[order], batch_size=64, shuffle=False, verbose=0)
    return model


def _measure(
    model: Any, group: str, name: str, scaling: str, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> Measured:
    source = describe_model(model)
    wrong = "0..1" if scaling == "0..255" else "0..255"
    near = {"0..1": "-1..1", "-1..1": "0..1"}.get(scaling)
    values: dict[str, float | None] = {}
    warned: dict[str, bool] = {}
    normalized = False
    for key in filter(None, (scaling, wrong, near)):
        contract: Any = SimpleNamespace(
            preprocessing=SCALINGS[key], image_shape=source.image.image_shape, output_kind=source.output_kind
        )
        reference = KerasReference(source.network, SCALINGS[key])
        answer = reference.without_noise(make_images(source.image.image_shape))
        gain = measure_gain(answer)
        normalized = gain is not None
        values[key] = gain if normalized else measure_spread(answer, source.output_kind)
        warned[key] = find_scale_alarm(reference, contract) is not None
    outputs = model.predict(SCALINGS[scaling].apply(images), batch_size=256, verbose=0)
    return Measured(
        group=group,
        name=name,
        scaling=scaling,
        accuracy=round(float(np.mean(outputs.argmax(axis=1) == labels)), 4),
        normalized=normalized,
        right=values[scaling],
        wrong=values[wrong],
        warned_right=warned[scaling],
        warned_wrong=warned[wrong],
        warned_near=warned[near] if near else None,
    )


def measure(data: Path, models: Path) -> Iterator[Measured]:
    """Train and measure every network."""
    for group, (networks, sets) in (("choosing", CHOOSING), ("reported", REPORTED)):
        for name in sets:
            images, labels = _read(data, name)
            for kind, layers in networks.items():
                for scaling, preprocessing in SCALINGS.items():
                    model = _train(images, labels, layers, preprocessing)
                    yield _measure(model, group, f"{name}, {kind}", scaling, images[:1000], labels[:1000])
    images, labels = read_rgb(data / "cifar10_jpeg")
    for name in ("cifar10_classic", "cifar10_resnet8"):
        model = import_keras().models.load_model(models / f"{name}.keras", compile=False)
        scaling = "0..255" if NETWORKS[name] == 1 else "0..1"
        yield _measure(model, "choosing", name, scaling, images[:1000], labels[:1000])


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    options = parser.parse_args()
    networks = []
    for one in measure(options.data, options.models):
        print(one, flush=True)
        networks.append(asdict(one))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULT.write_text(json.dumps({"networks": networks, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
