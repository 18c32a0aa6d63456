"""The files that code in the documentation reads: images and models in various formats.

In: digits, and a folder. Out: files in the folder, which the blocks of code in `tests/test_docs.py` read.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.conftest import encode
from tests.export import family
from tests.export.onnx_source import graphs


def save_pictures(folder: Path, images: NDArray[np.uint8]) -> None:
    """The same digits as a folder, a list and a tar."""
    files = [(f"photos/{'ab'[number % 2]}/{number}.png", encode(image)) for number, image in enumerate(images)]
    (folder / "webdataset").mkdir()
    with tarfile.open(folder / "webdataset" / "0.tar", "w") as tar:
        for name, data in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            tar.add(folder / name, name)
    (folder / "photos.csv").write_text("\n".join(["file_name", *(name for name, _ in files)]))


def save_records(path: Path, images: NDArray[np.uint8]) -> None:
    """Digits in a TFRecord file."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            encoded = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encode(image)]))
            example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": encoded}))
            writer.write(example.SerializeToString())


def save_models(folder: Path) -> None:
    """Keras models with a variable image size, with logits and with two outputs; and an ONNX file."""
    from export.source.describe import import_keras

    keras = import_keras()
    family.variable_size(keras).save(folder / "variable.keras")
    family.taking(28, 28, activation=None)(keras).save(folder / "logits.keras")
    layers = keras.layers
    image = layers.Input((8, 8, 1))
    hidden = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(layers.Flatten()(image)))
    outputs = [layers.Dense(3, activation="softmax", name=name)(hidden) for name in ("scores", "colours")]
    keras.Model(image, outputs).save(folder / "two-heads.keras")
    onnx.save(graphs.network(), folder / "network.onnx")


def save_in_two_files(path: Path, folder: Path) -> None:
    """A model as its configuration and its weights."""
    from export.source.describe import import_keras

    model = import_keras().models.load_model(path, compile=False)
    (folder / "model.json").write_text(model.to_json())
    model.save_weights(folder / "model.weights.h5")
