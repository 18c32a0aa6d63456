"""Models and files of Keras 2, made with `tf_keras`, which writes the same files as Keras 2.15.

Files of older versions are imitated: the configuration and the groups of a file are changed to the form of these
versions, while the weights and their meaning stay the same.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale
from tests.export.family import import_keras_2, set_norm_statistics


def save(model: Any, path: Path) -> Path:
    """Save a model of Keras 2: a zip archive if the path ends in `.keras`, else HDF5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 warns that HDF5 is outdated
        model.save(path, save_format="keras" if path.suffix == ".keras" else "h5")
    return path


def randomized(model: Any) -> Any:
    """The model with weights that are all different, so that a weight in a wrong place is seen.

    Kernels have He's variance for their fan-in, so that activations stay of order one.
    """
    rng = np.random.default_rng(3)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if any(part in weight.name for part in ("variance", "gamma")):
            own = rng.uniform(0.5, 1.5, shape)
        elif "kernel" in weight.name:
            fan_in = np.prod(shape[:2] if "depthwise" in weight.name else shape[:-1])
            own = rng.normal(0, np.sqrt(2 / fan_in), shape)
        else:
            own = rng.normal(0, 0.3, shape)
        weight.assign(own.astype(weight.dtype.as_numpy_dtype))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):  # Normalization derives values from its weights
            layer.finalize_state()
    scales_itself = any(type(layer).__name__ == "Rescaling" for layer in model._flatten_layers())
    set_norm_statistics(import_keras_2(), model, 255.0 if scales_itself else 1.0)
    return model


def without_last_activation(model: Any) -> Any:
    """The model, changed in place to return the values before its last softmax."""
    last = model
    while getattr(last, "layers", None):
        last = last.layers[-1]
    assert last.activation.__name__.startswith("softmax")
    last.activation = lambda logits: logits
    return model


def check(model: Any, path: Path, **options: Any) -> None:
    """Compare a loaded file with the model of Keras 2 that it contains, before the last activation."""
    source = load_model(path, **options)
    assert isinstance(source.network, KerasNetwork)
    largest = 255.0 if source.scales_itself else 1.0
    rows = largest * np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    without_last_activation(source.network.model)
    expected = np.asarray(without_last_activation(model)(rows, training=False))
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), expected, tolerance=1e-5)
    assert 0.05 < np.abs(expected).max() < 30
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()


def follow(message: str, folder: Path, monkeypatch: Any, **names: Any) -> None:
    """Run the Python code in a message in a folder, as users would run it, with the models that it names."""
    code = message.partition("Python code writes")[2].partition(": ")[2].partition(", where ")[0]
    assert code
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 warns that its formats are outdated
        exec(code, names)  # noqa: S102


def made(build: Callable[[Any], Any]) -> Any:
    library = import_keras_2()
    library.backend.clear_session()
    return randomized(build(library))


# Models.


def classifier(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Conv2D(6, 3, activation="relu", input_shape=(12, 12, 3)),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.SpatialDropout2D(0.2),
            layers.Flatten(),
            layers.Dense(16, activation="tanh"),
            layers.Dropout(0.4),
            layers.Dense(4, activation="softmax"),
        ]
    )


def teachable_machine(keras: Any) -> Any:
    """The structure of Teachable Machine's `keras_model.h5`, with a dropout layer in its head."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, use_bias=False)(image)))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = layers.Add()([x, layers.Conv2D(8, 1, use_bias=False)(y)])
    features = keras.Sequential([keras.Model(image, x, name="model1"), layers.GlobalAveragePooling2D()])
    head = keras.Sequential(
        [
            layers.Dense(20, activation="relu", input_shape=(8,)),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax", use_bias=False),
        ]
    )
    return keras.Sequential([features, head])


def transfer_learning(keras: Any) -> Any:
    """The first blocks of a network of `keras.applications`, frozen, with a new head."""
    whole = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    base = keras.Model(whole.input, whole.get_layer("block_4_add").output, name="base")
    base.trainable = False
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(base(image, training=False))
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))


def odd_names(keras: Any) -> Any:
    """Names of layers that Keras 3 does not allow."""
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="block/conv")(image)
    x = layers.Conv2D(6, 3, activation="relu", name="block\\conv")(layers.Dropout(0.3, name="block/drop")(x))
    head = keras.Sequential([layers.Flatten(), layers.Dense(8, name="head/dense")], name="head")
    return keras.Model(image, layers.Dense(4, activation="softmax")(head(x)))


def shared_models(keras: Any) -> Any:
    """Models within models, each called twice, and a sequential model that is built by its call."""
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    inner = keras.Model(image, layers.Conv2D(3, 3, padding="same", activation="tanh")(image), name="inner")
    image = keras.Input((12, 12, 3))
    outer = keras.Model(image, layers.Add()([inner(image), inner(layers.Dropout(0.2)(image))]), name="outer")
    head = keras.Sequential([layers.Flatten(), layers.Dense(8, activation="elu"), layers.Dropout(0.3)], name="head")
    image = keras.Input((12, 12, 3))
    x = layers.Concatenate()([outer(image), outer(layers.ReLU()(image))])
    return keras.Model(image, layers.Dense(4, activation="softmax")(head(x)))


def sequences(keras: Any) -> Any:
    """LSTM layers, wrappers and attention."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.TimeDistributed(layers.Dense(6, activation="relu"))(layers.Reshape((8, 24))(image))
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), merge_mode="concat")(x)
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x) + x)
    x = layers.RNN(layers.LSTMCell(5))(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))


def tiles(keras: Any) -> Any:
    """A network for each tile of an image: a model within TimeDistributed."""
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, activation="tanh"),
            layers.SpatialDropout2D(0.2),
            layers.BatchNormalization(),
            layers.Flatten(),
        ],
        name="network",
    )
    image = keras.Input((16, 8, 3))
    x = layers.TimeDistributed(network)(layers.Reshape((2, 8, 8, 3))(image))
    x = layers.Conv1D(8, 2, activation="tanh")(layers.TimeDistributed(layers.Dense(8, activation="tanh"))(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


def recurrent(keras: Any) -> Any:
    """Recurrent layers that become loops in ONNX, among them a GRU whose defaults have changed."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True, reset_after=False))(layers.Reshape((8, 24))(image))
    x = layers.GRU(5, return_sequences=True)(layers.SimpleRNN(6, return_sequences=True)(x))
    x = layers.LSTM(4, recurrent_activation="hard_sigmoid")(x)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))


def operations(keras: Any) -> Any:
    """Operations of TensorFlow between layers."""
    import tensorflow as tf

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = (1.0 - image / 0.5)[:, 2:, :, ::-1]
    x = tf.image.resize(tf.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]]), (6, 6))
    x = layers.Conv2D(6, 3, padding="same")(x)
    x = tf.nn.relu6(x + 3.0) * (1.0 / 6.0) * x
    low, high = tf.split(x, 2, axis=-1)
    x = tf.concat([tf.square(low), -high], axis=-1)
    x = tf.reshape(x, (-1, 36, 6)) ** 2
    x = tf.transpose(x, [0, 2, 1]) - tf.expand_dims(tf.reduce_mean(x, axis=1), -1)
    x = tf.reshape(x, (tf.shape(x)[0], 6 * 36))
    x = tf.clip_by_value(tf.cast(x, tf.float32), -2.0, 2.0)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))


def few_operations(keras: Any) -> Any:
    """The operations that `as_tensorflow_2_3` changes."""
    import tensorflow as tf

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, name="conv2d")(1.0 - image / 0.5)
    x = tf.concat([tf.nn.relu(x), x], axis=-1)
    x = layers.Flatten()(tf.reduce_mean(tf.squeeze(tf.expand_dims(x, 1), [1]), axis=[1]))
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(x))
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


def activations(keras: Any) -> Any:
    """Activations as names, functions and layers; among them `hard_sigmoid`, which is another function in Keras 3."""
    import tensorflow as tf

    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation=tf.nn.leaky_relu)(image)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(6, 3, activation="hard_sigmoid")(x))
    x = layers.PReLU(shared_axes=[1, 2])(layers.Activation("hard_sigmoid")(x))
    x = layers.Dense(8, activation=keras.layers.ELU(0.7))(layers.Flatten()(x))
    x = layers.Dense(8, activation=tf.nn.relu6)(layers.Activation(tf.nn.swish)(x))
    x = layers.Dropout(0.3)(layers.ReLU(2.0, 0.1)(x))
    return keras.Model(image, layers.Dense(4, activation=tf.nn.softmax)(x))


def losses_within(keras: Any) -> Any:
    """Losses and metrics as layers, and the class of InceptionResNetV2, which has no public name."""
    import tensorflow as tf
    from tf_keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    x = CustomScaleLayer(0.2)([x, layers.Conv2D(6, 1)(x)])
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(layers.Flatten()(x)))
    inner = keras.Model(image, x)
    inner.add_loss(tf.reduce_mean(x))
    inner.add_metric(tf.reduce_mean(x), name="mean")
    return keras.Sequential([inner, layers.Dense(4, activation="softmax")])


def augmented(keras: Any) -> Any:
    """Preprocessing and augmentation layers, as in TensorFlow's tutorials."""
    layers = keras.layers
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(5).normal(0.5, 0.3, (50, 12, 12, 3)).astype(np.float32))
    augmentation = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.Sequential(augmentation, name="augmentation"),
            layers.Rescaling(1 / 255),
            norm,
            layers.experimental.SyncBatchNormalization(),
            layers.Conv2D(6, 3, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(2.0)),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=0.1)),
        ]
    )


# Traits of older versions.


def edit_config(path: Path, change: Callable[[dict[str, Any]], Any], version: str) -> None:
    """Change the configuration in an HDF5 file, and the version that wrote the file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config).encode()
        file.attrs["keras_version"] = version
        file["model_weights"].attrs["keras_version"] = version


def as_keras_2_1(path: Path) -> None:
    """Sequential models as lists of layers, also within models, whose names are not stored; `Model`; no types."""

    def change(one: Any) -> Any:
        if isinstance(one, list):
            return [change(part) for part in one]
        if not isinstance(one, dict):
            return one
        one = {key: change(part) for key, part in one.items() if key not in ("dtype", "ragged", "groups", "module")}
        if one.get("class_name") == "Functional":
            one["class_name"] = "Model"
        if one.get("class_name") == "Sequential":
            one["config"] = _without_input_layer(one["config"]["layers"])
        if one.get("class_name") == "GRU" and not one["config"]["reset_after"]:
            del one["config"]["reset_after"]  # this setting came with Keras 2.1.3
        return one

    edit_config(path, change, "2.1.6")


def as_tensorflow_2_0(path: Path) -> None:
    """Sequential models without input layer, `Model`, types in initializers, and no settings of later versions."""

    def change(one: Any) -> Any:
        if isinstance(one, list):
            return [change(part) for part in one]
        if not isinstance(one, dict):
            return one
        one = {
            key: change(part) for key, part in one.items() if key not in ("groups", "keepdims", "module", "optional")
        }
        if one.get("class_name") == "Functional":
            one["class_name"] = "Model"
        if one.get("class_name") == "Sequential":
            one["config"]["layers"] = _without_input_layer(one["config"]["layers"])
        if one.get("class_name") in ("GlorotUniform", "Zeros", "Ones"):
            one["config"]["dtype"] = "float32"
        return one

    edit_config(path, change, "2.2.4-tf")


def as_tensorflow_2_3(path: Path) -> None:
    """The operations of `few_operations` as nodes of a graph, with their constants, as in TensorFlow 2.0 to 2.3."""
    name = "tf_op_layer_"
    nodes: dict[str, tuple[str, list[str], dict[str, Any], dict[str, Any]]] = {
        "tf.math.truediv": ("RealDiv", ["input_1"], {"1": 0.5}, {}),
        "tf.math.subtract": ("Sub", [name + "tf.math.truediv"], {"0": 1.0}, {}),
        "tf.nn.relu": ("Relu", ["conv2d"], {}, {}),
        "tf.concat": ("ConcatV2", [name + "tf.nn.relu", "conv2d"], {"2": -1}, {"N": {"i": "2"}}),
        "tf.expand_dims": ("ExpandDims", [name + "tf.concat"], {"1": 1}, {}),
        "tf.compat.v1.squeeze": (
            "Squeeze",
            [name + "tf.expand_dims"],
            {},
            {"squeeze_dims": {"list": {"i": ["1"]}}},
        ),
        "tf.math.reduce_mean": (
            "Mean",
            [name + "tf.compat.v1.squeeze"],
            {"1": [1]},
            {"keep_dims": {"b": False}, "Tidx": {"type": "DT_INT32"}},
        ),
    }

    def change(config: dict[str, Any]) -> None:
        for one in config["config"]["layers"]:
            old = one["name"]
            if old in nodes:
                kind, inputs, constants, attributes = nodes[old]
                node = {"name": old, "op": kind, "input": inputs, "attr": {"T": {"type": "DT_FLOAT"}, **attributes}}
                one["class_name"], one["name"] = "TensorFlowOpLayer", name + old
                one["config"] = {"name": old, "dtype": "float32", "node_def": node, "constants": constants}
                one["inbound_nodes"] = [[[source, 0, 0, {}] for source in inputs]]
            else:
                text = json.dumps(one["inbound_nodes"])
                for renamed in nodes:
                    text = text.replace(f'"{renamed}"', f'"{name}{renamed}"')
                one["inbound_nodes"] = json.loads(text)

    edit_config(path, change, "2.4.0")


def _without_input_layer(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers of a sequential model; the first of them has the shape of the input."""
    if layers[0]["class_name"] != "InputLayer":
        return layers
    first = layers[1]
    if "layers" not in first["config"] and not isinstance(first["config"], list):
        first["config"]["batch_input_shape"] = layers[0]["config"]["batch_input_shape"]
    return layers[1:]


def as_keras_2_13(path: Path) -> None:
    """The weights in a `.keras` file under the names of Keras 2.12 and 2.13: layers with weights count twice."""
    _rename_weights(path, "/")


def as_keras_2_13_on_windows(path: Path) -> None:
    """As `as_keras_2_13`, with names joined by backslashes."""
    _rename_weights(path, "\\")


def _rename_weights(path: Path, separator: str) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    datasets = {}
    with h5py.File(io.BytesIO(parts["model.weights.h5"]), "r") as file:
        file.visititems(
            lambda name, item: datasets.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        for name, value in datasets.items():
            name = name.replace("layers/", "_layer_checkpoint_dependencies/")
            name = re.sub(r"(?<=dencies/)(\w+?)_(\d+)(?=/)", lambda one: f"{one[1]}_{2 * int(one[2])}", name)
            inner, _, index = name.rpartition("/vars/")
            file[f"{inner.replace('/', separator)}/vars/{index}"] = value
    parts["model.weights.h5"] = stored.getvalue()
    parts["metadata.json"] = json.dumps({"keras_version": "2.13.1"}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def with_numbered_weights(path: Path) -> None:
    """Weights with the names of a model that was loaded and saved again with TensorFlow 1, which numbers names."""
    with h5py.File(path, "r+") as file:
        for group in file["model_weights"].values():
            names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs.get("weight_names", ())]
            values = [group[name][()] for name in names]
            for key in list(group):
                del group[key]
            numbered = [re.sub(r"([^/]+)/([^/]+):0$", r"\1_1/\2_1:0", name) for name in names]
            for name, value in zip(numbered, values, strict=True):
                group[name] = value
            group.attrs["weight_names"] = [name.encode() for name in numbered]
