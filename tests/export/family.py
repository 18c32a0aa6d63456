"""The models on which the export is tested; the table of supported models in the documentation is generated from them.

All models are small and have random weights. Each represents a kind of model that users have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.export.folders import as_tensorflow_2_0, as_tensorflow_2_4, save_folder

UNIT = ("--scale", "1/255")
RAW = ("--scale", "1")
_HERE = "tests.export.custom"


@dataclass(frozen=True)
class Member:
    """One model of the family.

    Attributes:
        name: name of the test.
        area: row of the generated table.
        what: description of the model in this row.
        build: function that returns the model, or writes it to a path if `writes` is set.
        sites: expected kinds of the noise functions, in order.
        options: options of `oodscreen export`.
        container: extension of the model file; "" for a SavedModel folder.
        writes: whether `build` writes the model file itself, for formats that Keras 3 does not write.
        quick: whether `make test` includes the model.
        notice: expected part of the notices of the export.
        flag_if: a flag rule, if the output kind has no default rule.
    """

    name: str
    area: str
    what: str
    build: Callable[..., Any]
    sites: tuple[str, ...]
    options: tuple[str, ...] = UNIT
    container: str = ".keras"
    writes: bool = False
    quick: bool = False
    notice: str = ""
    flag_if: str = ""

    def save(self, keras: Any, folder: Path) -> Path:
        """Build the model, write it to a file in a folder, and return the path."""
        path = folder / f"{self.name}{self.container}"
        keras.backend.clear_session()
        keras.utils.set_random_seed(len(self.name))
        if self.writes:
            self.build(keras, path)
        else:
            model = self.build(keras)
            _normalize(keras, model, 1.0 if self.options[:2] == UNIT else 255.0)
            model.save(path)
        return path


def _normalize(keras: Any, model: Any, largest: float) -> None:
    """Set untrained BatchNormalization layers to the statistics of a batch, so that activations stay of order one."""
    import numpy as np

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if norms and not any(np.any(norm.get_weights()[-2]) for norm in norms):
        set_norm_statistics(keras, model, largest)


def set_norm_statistics(keras: Any, model: Any, largest: float = 1.0) -> None:
    """Give every BatchNormalization the mean and variance that it meets in 16 random images up to `largest`.

    For Keras 2 and 3; a frozen layer stays frozen.
    """
    import numpy as np

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    trainable, momentum = [norm.trainable for norm in norms], [norm.momentum for norm in norms]
    images = np.random.default_rng(4).random((16, *model.input_shape[1:])).astype(np.float32) * largest
    for norm in norms:
        norm.trainable, norm.momentum = True, 0.0  # a frozen layer would not learn them
    model(images, training=True)
    for norm, was_trainable, usual in zip(norms, trainable, momentum, strict=True):
        norm.trainable, norm.momentum = was_trainable, usual
        variance = norm.moving_variance.numpy()
        norm.moving_variance.assign(variance + 0.2 * variance.mean() + 1e-3)


def _finish(
    keras: Any, image: Any, x: Any, classes: int = 4, activation: str | None = "softmax", **options: Any
) -> Any:
    """The model with a last layer of larger weights than usual, so that the outputs differ between images."""
    kernel = keras.initializers.RandomNormal(stddev=2 / x.shape[-1] ** 0.5, seed=9)
    return keras.Model(
        image, keras.layers.Dense(classes, activation=activation, kernel_initializer=kernel, **options)(x)
    )


def _stem(keras: Any, shape: tuple[int, int, int] = (12, 12, 3), **options: Any) -> tuple[Any, Any]:
    image = keras.Input(shape)
    return image, keras.layers.Conv2D(8, 3, padding="same", activation="relu", **options)(image)


def sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Flatten(),
            layers.Dense(40, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(20, activation="tanh"),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )


def always_on(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.Dropout(0.25)(layers.MaxPooling2D()(x), training=True)
    x = layers.Dropout(0.5)(layers.Dense(30, activation="relu")(layers.Flatten()(x)), training=True)
    return _finish(keras, image, x)


def spatial_1d(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((12, 12, 1))
    x = layers.Conv1D(16, 3, activation="relu")(layers.Reshape((12, 12))(image))
    x = layers.Conv1D(8, 3, activation="relu")(layers.SpatialDropout1D(0.3)(x))
    return _finish(keras, image, layers.GlobalAveragePooling1D()(x))


def batch_normalized(keras: Any) -> Any:
    """Statistics unlike those of any batch, so that BatchNormalization in training mode is detected."""
    import numpy as np

    layers = keras.layers
    image, x = _stem(keras, use_bias=False)
    norm = layers.BatchNormalization()
    x = layers.SpatialDropout2D(0.3)(layers.Activation("relu")(norm(x)))
    x = layers.Conv2D(8, 3, activation="relu")(x)
    model = _finish(keras, image, layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(2)
    norm.set_weights([rng.uniform(0.5, 1.5, 8), rng.normal(size=8), rng.normal(size=8), rng.uniform(0.05, 0.2, 8)])
    return model


def spatial_3d(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv3D(6, 3, padding="same", activation="relu")(layers.Reshape((3, 12, 12, 1))(image))
    x = layers.SpatialDropout3D(0.3)(x)
    x = layers.Conv3D(6, (1, 3, 3), activation="relu")(x)
    return _finish(keras, image, layers.GlobalAveragePooling3D()(x))


def noise_shape(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.Dropout(0.3, noise_shape=(None, 1, 12, 1))(x)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.Dropout(0.3, noise_shape=(1, 10, 10, 1))(x)
    return _finish(keras, image, layers.GlobalAveragePooling2D()(x))


def gaussian(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.Conv2D(8, 3, activation="relu")(layers.GaussianDropout(0.3)(x))
    x = layers.Dense(20, activation="relu")(layers.Flatten()(x))
    return _finish(keras, image, layers.GaussianDropout(0.4)(x))


def self_normalizing(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((10, 10, 1))
    x = layers.Flatten()(image)
    for rate in (0.1, 0.2):
        x = layers.Dense(30, activation="selu", kernel_initializer="lecun_normal")(x)
        x = layers.AlphaDropout(rate)(x)
    return _finish(keras, image, x)


def alpha_shared(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.AlphaDropout(0.2, noise_shape=(None, 1, 1, 8))(x)
    x = layers.Conv2D(8, 3, activation="selu")(x)
    return _finish(keras, image, layers.GlobalAveragePooling2D()(x))


def nested(keras: Any) -> Any:
    layers = keras.layers
    encoder = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.Conv2D(8, 3, activation="elu"), layers.Dropout(0.2), layers.Conv2D(6, 3)],
        name="encoder",
    )
    image = keras.Input((12, 12, 3))
    x = layers.GlobalMaxPooling2D()(encoder(image))
    return _finish(keras, image, layers.Dropout(0.3, name="top")(x))


def without_dropout(keras: Any) -> Any:
    """A network without dropout: a nested model, a residual connection, and a dense layer before the outputs."""
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((12, 12, 3)), layers.Conv2D(8, 3, activation="relu")], name="encoder")
    image = keras.Input((12, 12, 3))
    x = encoder(image)
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", activation="relu", name="block")(x)])
    return _finish(keras, image, layers.Dense(12, activation="relu")(layers.GlobalAveragePooling2D()(x)))


def residual(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    for _ in range(3):
        y = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        y = layers.Activation("relu")(layers.BatchNormalization()(y))
        y = layers.Conv2D(8, 3, padding="same")(layers.Dropout(0.2)(y))
        x = layers.Activation("relu")(layers.Add()([x, layers.SpatialDropout2D(0.1)(y)]))
    return _finish(keras, image, layers.GlobalAveragePooling2D()(x))


def vision_transformer(keras: Any) -> Any:
    from tests.export.custom import PositionEmbedding

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Reshape((9, 16))(layers.Conv2D(16, 4, strides=4)(image))
    x = layers.Dropout(0.1)(PositionEmbedding()(x))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8, dropout=0.2)(y, y)])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.2)(layers.Dense(16)(y))])
    return _finish(keras, image, layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x)))


def vgg(keras: Any) -> Any:
    layers = keras.layers
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    for weight in base.weights:
        if len(weight.shape) == 4:
            # From Glorot's variance to He's: without it, signals vanish over 13 layers, and answers are all alike.
            weight.assign(weight * 2**0.5)
    x = layers.Flatten()(base.output)
    for _ in range(2):
        x = layers.Dropout(0.5)(layers.Dense(64, activation="relu", kernel_initializer="he_normal")(x))
    return _finish(keras, base.input, x)


def mobilenet_v2(keras: Any) -> Any:
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35, pooling="avg"
    )
    return _finish(keras, base.input, keras.layers.Dropout(0.3)(base.output))


def mobilenet_v3(keras: Any) -> Any:
    return keras.applications.MobileNetV3Small(
        weights=None, input_shape=(32, 32, 3), classes=4, dropout_rate=0.4, minimalistic=False
    )


def resnet(keras: Any) -> Any:
    """A network with zero padding before a MaxPool, and dropout before the classifier."""
    base = keras.applications.ResNet50V2(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    return _finish(keras, base.input, keras.layers.Dropout(0.3)(base.output))


def convnext(keras: Any) -> Any:
    base = keras.applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    return _finish(keras, base.input, keras.layers.Dropout(0.3)(base.output))


def efficientnet(keras: Any) -> Any:
    return keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=4)


def subclassed(keras: Any) -> Any:
    import numpy as np

    from tests.export.custom import Subclassed

    model = Subclassed(classes=4)
    model(np.zeros((1, 12, 12, 3), np.float32))
    return model


def custom_layer(keras: Any) -> Any:
    from tests.export.custom import GatedDropout

    image, x = _stem(keras)
    return _finish(keras, image, GatedDropout(0.3)(keras.layers.GlobalAveragePooling2D()(x)))


def tutorial_dropout(keras: Any) -> Any:
    """The dropout subclass of many tutorials, whose class is missing when the file is loaded."""
    base = keras.layers.Dropout
    alpha = keras.layers.AlphaDropout

    class MCDropout(base):  # type: ignore[misc, valid-type]
        def call(self, inputs: Any) -> Any:
            return super().call(inputs, training=True)

    class MCAlphaDropout(alpha):  # type: ignore[misc, valid-type]
        def call(self, inputs: Any) -> Any:
            return super().call(inputs, training=True)

    image, x = _stem(keras)
    x = keras.layers.Dense(20, activation="selu")(MCDropout(0.3)(keras.layers.Flatten()(x)))
    return _finish(keras, image, MCAlphaDropout(0.1)(x))


def in_folder(build: Callable[[Any], Any] | str, change: Callable[[Path], None] | None = None) -> Callable[..., None]:
    """A function that writes a model of Keras 2, or one of `tests.export.keras_2` by its name, to a SavedModel folder.

    `change` forges the traits of an older version of TensorFlow.
    """

    def write(_keras: Any, path: Path) -> None:
        from tests.export import keras_2

        model = keras_2.made(getattr(keras_2, build) if isinstance(build, str) else build)
        save_folder(model, path, traces=change is None)
        if change is not None:
            change(path)

    return write


def h5_by_keras_2(_keras: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 warns that the format is outdated
        always_on(import_keras_2()).save(path, save_format="h5")


def of_keras_2(build: str, *changes: str) -> Callable[[Any, Path], None]:
    """A function that writes a model of `tests.export.keras_2`, and forges traits of older versions, by their names."""

    def write(_keras: Any, path: Path) -> None:
        from tests.export import keras_2

        keras_2.save(keras_2.made(getattr(keras_2, build)), path)
        for change in changes:
            getattr(keras_2, change)(path)

    return write


def import_keras_2() -> Any:
    """Keras 2, from the package `tf_keras`."""
    import pytest

    return pytest.importorskip("tf_keras", reason="tf_keras, which writes the formats of Keras 2, is not installed")


def in_policy(policy: str) -> Callable[[Any], Any]:
    """A function that builds a model under another dtype policy."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            image, x = _stem(keras)
            x = layers.BatchNormalization()(x)
            x = layers.Conv2D(8, 3, activation="relu")(layers.SpatialDropout2D(0.2)(x))
            x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
            return _finish(keras, image, x, dtype="float32" if policy.startswith("mixed") else None)
        finally:
            keras.config.set_dtype_policy(before)

    return build


def with_output(activation: str | None, classes: int) -> Callable[[Any], Any]:
    """A function that builds a model with another last activation."""

    def build(keras: Any) -> Any:
        image, x = _stem(keras)
        x = keras.layers.Dropout(0.3)(keras.layers.GlobalMaxPooling2D()(x))
        return _finish(keras, image, x, classes, activation)

    return build


def several_outputs(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.Dropout(0.3, name="shared_drop")(layers.GlobalMaxPooling2D()(x))
    kind = layers.Dense(4, activation="softmax", name="kind")(layers.Dropout(0.2, name="kind_drop")(x))
    age = layers.Dense(1, name="age")(layers.Dropout(0.2, name="age_drop")(x))
    return keras.Model(image, {"kind": kind, "age": age})


def augmented(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.RandomRotation(0.1)(layers.RandomFlip()(image))
    x = layers.GaussianNoise(0.1)(layers.Conv2D(8, 3, activation="relu")(x))
    return _finish(keras, image, layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x)))


def scales_itself(keras: Any) -> Any:
    import numpy as np

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    norm = layers.Normalization(mean=np.array([0.4, 0.5, 0.6]), variance=np.array([0.04, 0.05, 0.06]))
    x = layers.Conv2D(8, 3, activation="relu")(norm(layers.Rescaling(1 / 255)(image)))
    return _finish(keras, image, layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x)))


def taking(*shape: int, activation: str | None = "softmax") -> Callable[[Any], Any]:
    """A function that builds a dense model with an input of another shape than that of an image."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input(shape)
        x = layers.Dense(30, activation="relu")(layers.Flatten()(image) if len(shape) > 1 else image)
        return _finish(keras, image, layers.Dropout(0.3)(x), activation=activation)

    return build


def planes(keras: Any) -> Any:
    """Images with the only channel first, which the layers take for rows of pixels with 28 channels."""
    layers = keras.layers
    image = keras.Input((1, 28, 28))
    x = layers.Flatten()(layers.Conv2D(8, (1, 3), activation="relu")(image))
    return _finish(keras, image, layers.Dropout(0.3)(x))


def variable_size(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((None, None, 3))
    x = layers.SpatialDropout2D(0.2)(layers.Conv2D(8, 3, activation="relu")(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(12, 3, activation="relu")(x))
    return _finish(keras, image, layers.Dropout(0.3)(x))


def called_twice(keras: Any) -> Any:
    layers = keras.layers
    drop = layers.Dropout(0.3, name="again")
    image, x = _stem(keras)
    x = drop(layers.Dense(20, activation="relu")(drop(layers.Flatten()(x))))
    return _finish(keras, image, x)


def many_layers(keras: Any) -> Any:
    """Layers and activations that often come with dropout."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.ZeroPadding2D()(image)
    x = layers.SeparableConv2D(8, 3, activation="silu")(x)
    x = layers.Dropout(0.1)(layers.GroupNormalization(4)(x))
    x = layers.Conv2D(8, 3, padding="same", groups=4)(layers.DepthwiseConv2D(3, activation="mish")(x))
    x = layers.SpatialDropout2D(0.1)(layers.AveragePooling2D(2)(x))
    x = layers.Conv2DTranspose(6, 3, strides=2, activation="leaky_relu")(x)
    x = layers.Dropout(0.1)(layers.UpSampling2D()(layers.PReLU()(x)))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    x = layers.Dense(12, activation="softplus")(layers.UnitNormalization()(x))
    return _finish(keras, image, layers.Dropout(0.2)(layers.Dense(12, activation="hard_sigmoid")(x)))


def recurrent(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    rows = layers.Reshape((8, 8))(image)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(rows)
    x = layers.TimeDistributed(layers.Dense(6, activation="relu"))(layers.Dropout(0.2)(x))
    y = layers.ConvLSTM2D(3, 3)(layers.Reshape((2, 4, 8, 1))(image))
    x = layers.Concatenate()([layers.SimpleRNN(8)(x), layers.LSTM(8)(rows), layers.Flatten()(y)])
    return _finish(keras, image, layers.Dropout(0.3)(x))


def resized(keras: Any) -> Any:
    layers = keras.layers
    image, x = _stem(keras)
    x = layers.Dropout(0.2)(layers.Resizing(10, 7)(x))
    x = layers.Conv2D(8, 3, activation="relu")(layers.UpSampling2D(3, interpolation="bilinear")(x))
    x = layers.SpatialDropout2D(0.2)(layers.Resizing(5, 9, interpolation="nearest")(x))
    return _finish(keras, image, layers.GlobalAveragePooling2D()(x))


def with_lambda(keras: Any) -> Any:
    image, x = _stem(keras)
    x = keras.layers.Lambda(lambda y: y * 2 - 1)(keras.layers.GlobalMaxPooling2D()(x))
    return _finish(keras, image, keras.layers.Dropout(0.3)(x))


D, B, G, A = "MCDropout", "MCBroadcastDropout", "MCGaussianDropout", "MCAlphaDropout"

FAMILY = (
    Member("sequential", "models", "sequential and functional", sequential, (D, D)),
    Member("nested", "models", "models within models", nested, (D, D)),
    Member(
        "subclassed",
        "models",
        "subclassed (`--custom-objects`)",
        subclassed,
        (D, D),
        options=(*UNIT, "--custom-objects", f"{_HERE}:Subclassed"),
        quick=True,
    ),
    Member("many_layers", "models", "common layers and activations", many_layers, (D, B, D, D)),
    Member(
        "transfer_learning",
        "models",
        "networks of `keras.applications` within a model of Keras 2 (transfer learning)",
        of_keras_2("transfer_learning"),
        (D,),
        container=".h5",
        writes=True,
    ),
    Member(
        "teachable_machine",
        "models",
        "the structure of Teachable Machine's `keras_model.h5`, with dropout",
        of_keras_2("teachable_machine", "as_tensorflow_2_0"),
        (D,),
        container=".h5",
        writes=True,
    ),
    Member(
        "shared_models",
        "models",
        "models of Keras 2 that are called several times",
        of_keras_2("shared_models"),
        (D, D, D),
        container=".h5",
        writes=True,
    ),
    Member(
        "operations",
        "models",
        "operations of TensorFlow between the layers of Keras 2, such as `x / 255.`",
        of_keras_2("operations"),
        (D,),
        container=".h5",
        writes=True,
    ),
    Member(
        "operations_2_3",
        "models",
        "operations of TensorFlow in files of TensorFlow 2.0 to 2.3",
        of_keras_2("few_operations", "as_tensorflow_2_3"),
        (D,),
        container=".h5",
        writes=True,
    ),
    Member(
        "sequences",
        "models",
        "LSTM, Bidirectional, TimeDistributed and MultiHeadAttention of Keras 2",
        of_keras_2("sequences"),
        (D, D),
        container=".h5",
        writes=True,
    ),
    Member("recurrent", "models", "GRU, SimpleRNN, LSTM and ConvLSTM2D, with at most 256 steps", recurrent, (D, D)),
    Member("resized", "models", "Resizing and UpSampling2D, to any size", resized, (D, B)),
    Member(
        "tiles",
        "models",
        "a model within TimeDistributed of Keras 2",
        of_keras_2("tiles"),
        (B, B, D),
        container=".h5",
        writes=True,
    ),
    Member(
        "keras_2_activations",
        "models",
        "activations of Keras 2 as names, functions and layers",
        of_keras_2("activations"),
        (D,),
        container=".h5",
        writes=True,
    ),
    Member("vgg", "networks", "VGG16, dropout between dense layers", vgg, (D, D)),
    Member("mobilenet_v2", "networks", "MobileNetV2, dropout before the classifier", mobilenet_v2, (D,)),
    Member("mobilenet_v3", "networks", "MobileNetV3, with its own dropout", mobilenet_v3, (D,), options=()),
    Member(
        "efficientnet", "networks", "EfficientNet, with stochastic depth", efficientnet, (B,) * 9 + (D,), options=()
    ),
    Member("resnet", "networks", "ResNet50V2, dropout before the classifier", resnet, (D,)),
    Member("convnext", "networks", "ConvNeXt, dropout before the classifier", convnext, (D,), options=()),
    Member("residual", "networks", "residual blocks with dropout in each", residual, (D, B) * 3),
    Member(
        "vision_transformer",
        "networks",
        "vision transformer, attention dropout, exact gelu",
        vision_transformer,
        (D,) * 5,
        options=(*UNIT, "--custom-objects", f"{_HERE}:PositionEmbedding"),
        quick=True,
    ),
    Member("always_on", "dropout", "`training=True` when the model was built", always_on, (D, D)),
    Member("spatial_1d", "dropout", "SpatialDropout1D", spatial_1d, (B,)),
    Member(
        "batch_normalized",
        "dropout",
        "SpatialDropout2D and BatchNormalization",
        batch_normalized,
        (B, D),
        quick=True,
    ),
    Member("spatial_3d", "dropout", "SpatialDropout3D", spatial_3d, (B,)),
    Member("noise_shape", "dropout", "Dropout with `noise_shape`", noise_shape, (B, B)),
    Member("gaussian", "dropout", "GaussianDropout", gaussian, (G, G), quick=True),
    Member("self_normalizing", "dropout", "AlphaDropout", self_normalizing, (A, A), quick=True),
    Member("alpha_shared", "dropout", "AlphaDropout with `noise_shape`", alpha_shared, ("MCBroadcastAlphaDropout",)),
    Member("called_twice", "dropout", "a layer that is called twice", called_twice, (D, D)),
    Member(
        "keep_and_rate",
        "dropout",
        "selected layers with other rates (`--keep-layer`, `--rate`)",
        residual,
        (D, B),
        options=(*UNIT, "--keep-layer", "dropout_1", "--keep-layer", "spatial_dropout2d_2", "--rate", "dropout*=0.4"),
    ),
    Member(
        "inserted",
        "dropout",
        "dropout inserted into a network without it (`--insert-dropout`)",
        without_dropout,
        (D, D),
        options=(*UNIT, "--insert-dropout", "classifier=0.3", "--insert-dropout", "block=20%"),
    ),
    Member(
        "custom_layer",
        "dropout",
        "subclasses of Dropout that call the parent class (`--custom-objects`)",
        custom_layer,
        (D,),
        options=(*UNIT, "--custom-objects", f"{_HERE}:GatedDropout"),
    ),
    Member(
        "tutorial_dropout",
        "dropout",
        "the class `MCDropout(Dropout)` of many tutorials, without the code of the class",
        tutorial_dropout,
        (D, A),
        notice="the file does not contain the code of the class MCDropout",
        quick=True,
    ),
    Member("h5", "files", "`.h5`", residual, (D, B) * 3, container=".h5"),
    Member(
        "saved_by_keras_2",
        "files",
        "SavedModel folders of Keras 2's `model.save`",
        in_folder(always_on),
        (D, D),
        container="",
        writes=True,
    ),
    Member(
        "folder_of_tensorflow_2_0",
        "files",
        "SavedModel folders of TensorFlow 2.0 to 2.4",
        in_folder(nested, as_tensorflow_2_0),
        (D, D),
        container="",
        writes=True,
        quick=True,
    ),
    Member(
        "transfer_in_folder",
        "files",
        "transfer learning in SavedModel folders (a network of `keras.applications` within the model)",
        in_folder("transfer_learning", as_tensorflow_2_4),
        (D,),
        container="",
        writes=True,
    ),
    Member(
        "sequences_in_folder",
        "files",
        "Bidirectional, LSTM, TimeDistributed and MultiHeadAttention in SavedModel folders",
        in_folder("sequences", as_tensorflow_2_4),
        (D, D),
        container="",
        writes=True,
    ),
    Member("h5_by_keras_2", "files", "`.h5` of Keras 2", h5_by_keras_2, (D, D), container=".h5", writes=True),
    Member(
        "keras_2_1",
        "files",
        "`.h5` of Keras 2.0 to 2.2, whose sequential models are lists of layers",
        of_keras_2("teachable_machine", "as_keras_2_1", "with_numbered_weights"),
        (D,),
        container=".h5",
        writes=True,
        quick=True,
    ),
    Member(
        "tensorflow_2_0",
        "files",
        "`.h5` of TensorFlow 2.0, under another name (`.model`)",
        of_keras_2("classifier", "as_tensorflow_2_0"),
        (B, D),
        container=".model",
        writes=True,
    ),
    Member(
        "keras_2_13",
        "files",
        "`.keras` of Keras 2.12 and 2.13, written on Windows",
        of_keras_2("classifier", "as_keras_2_13_on_windows"),
        (B, D),
        container=".keras",
        writes=True,
    ),
    Member(
        "keras_2_15",
        "files",
        "`.keras` of Keras 2.14 and 2.15",
        of_keras_2("sequences"),
        (D, D),
        container=".keras",
        writes=True,
    ),
    Member(
        "with_lambda",
        "files",
        "Lambda layers (`--unsafe`)",
        with_lambda,
        (D,),
        options=(*UNIT, "--unsafe"),
    ),
    Member("mixed_float16", "precision", "`mixed_float16`", in_policy("mixed_float16"), (B, D), notice="float16"),
    Member("mixed_bfloat16", "precision", "`mixed_bfloat16`", in_policy("mixed_bfloat16"), (B, D), notice="bfloat16"),
    Member("float16", "precision", "`float16`", in_policy("float16"), (B, D), notice="float16"),
    Member("float64", "precision", "`float64`", in_policy("float64"), (B, D), notice="float64"),
    Member("logits", "outputs", "logits", with_output(None, 4), (D,), options=(*UNIT, "--output-kind", "logits")),
    Member("binary", "outputs", "one sigmoid", with_output("sigmoid", 1), (D,)),
    Member("one_logit", "outputs", "one logit", with_output(None, 1), (D,), options=(*UNIT, "--output-kind", "logits")),
    Member("labels", "outputs", "several labels (sigmoids)", with_output("sigmoid", 3), (D,)),
    Member(
        "regression",
        "outputs",
        "regression",
        with_output(None, 2),
        (D,),
        options=(*UNIT, "--output-kind", "regression"),
        flag_if="largest_std > 0.1",
    ),
    Member(
        "several_outputs",
        "outputs",
        "one of several outputs (`--output-layer`)",
        several_outputs,
        (D, D),
        options=(*UNIT, "--output-layer", "kind"),
    ),
    Member("scales_itself", "inputs", "Rescaling and Normalization layers", scales_itself, (D,), options=()),
    Member(
        "augmented",
        "inputs",
        "augmentation layers and GaussianNoise (disabled, with a notice)",
        augmented,
        (D,),
        notice="random_flip (RandomFlip) is disabled",
    ),
    Member(
        "quickstart",
        "inputs",
        "`[28, 28]`, as in TensorFlow's quickstart",
        taking(28, 28, activation=None),
        (D,),
        options=(*UNIT, "--output-kind", "logits"),
        notice="the input of shape [N, 28, 28] is interpreted as a grey image of 28 x 28 pixels",
    ),
    Member(
        "flat",
        "inputs",
        "flat grey images, as `[784]`",
        taking(784),
        (D,),
        notice="a grey image of 28 x 28 pixels",
        quick=True,
    ),
    Member(
        "flat_colour",
        "inputs",
        "flat colour images (`--image-shape`)",
        taking(192),
        (D,),
        options=(*UNIT, "--mean", "0.4,0.5,0.6", "--image-shape", "3x8x8"),
    ),
    Member(
        "planes",
        "inputs",
        "`[1, 28, 28]` with layers for channels last",
        planes,
        (D,),
        notice="the input of shape [N, 1, 28, 28] is interpreted as a grey image",
    ),
    Member(
        "variable_size",
        "inputs",
        "images of variable size (`--image-shape`)",
        variable_size,
        (B, D),
        options=(*UNIT, "--image-shape", "24x20x3"),
    ),
    Member(
        "keras_2_augmented",
        "inputs",
        "preprocessing and augmentation layers of Keras 2",
        of_keras_2("augmented"),
        (D,),
        options=(),
        container=".h5",
        writes=True,
        notice="random_flip (RandomFlip) is disabled",
    ),
    Member(
        "opset_17",
        "ONNX",
        "an older operator set (`--opset 17`)",
        residual,
        (D, B) * 3,
        options=(*UNIT, "--opset", "17"),
    ),
    Member(
        "opset_21",
        "ONNX",
        "a newer operator set (`--opset 21`)",
        residual,
        (D, B) * 3,
        options=(*UNIT, "--opset", "21"),
    ),
)
