"""Make each chosen dropout layer survive tracing, or behave as a reference needs it.

Keras' own dropout dies on its way to ONNX: converters drop it, fold it or meet random ops that
they do not know. So for the time of a trace each dropout layer is given another `call`, which
marks its place with a `CheckNumerics` op: that op passes its tensor through, carries a text, and
is kept by TensorFlow's graph optimiser. `export.convert` turns the marks into noise functions.
Everything else is traced with `training=False`, so BatchNormalization stays in inference mode.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract import Site
from export.errors import ModelRefused
from export.inputs import Preprocessing

Behaviour = Callable[[Any, Any], Any]
"""What a dropout layer does instead of its own call: (layer, inputs) to outputs."""

_MARK = "oodscreen-site:"


@contextmanager
def dropouts_behave(layers: Sequence[Any], behaviour: Behaviour) -> Iterator[None]:
    """For the time of the block, `layers` do what `behaviour` says, whatever `training` they get."""

    def replaced(layer: Any, inputs: Any, training: bool | None = None) -> Any:
        return behaviour(layer, inputs)

    for layer in layers:
        object.__setattr__(layer, "call", functools.partial(replaced, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def keep_identity(_layer: Any, inputs: Any) -> Any:
    """The deterministic model: dropout does nothing."""
    return inputs


def draw_noise(seed_generator: Any) -> Behaviour:
    """The Monte Carlo model in Keras itself: dropout draws, whatever else is in inference mode."""
    import keras

    def draw(layer: Any, inputs: Any) -> Any:
        shape = (int(inputs.shape[0]), *_noise_shape(layer, tuple(inputs.shape)[1:]))
        return keras.random.dropout(inputs, layer.rate, noise_shape=shape, seed=seed_generator)

    return draw


class SiteMarker:
    """The behaviour for tracing: marks each call of a dropout layer, and remembers it as a `Site`.

    Args:
        paths: names of layers by their `id`; other layers go by their own name.

    Attributes:
        sites: in the order of the calls.
        refusal: why a site cannot be kept. It is kept here because Keras turns what a layer's
            call raises into another error.
    """

    def __init__(self, paths: Mapping[int, str] | None = None) -> None:
        self._paths = paths or {}
        self.sites: list[Site] = []
        self.refusal: ModelRefused | None = None

    def __call__(self, layer: Any, inputs: Any) -> Any:
        """Mark one call; what goes in comes out."""
        import tensorflow as tf

        try:
            site = self._describe(layer, inputs)
        except ModelRefused as error:
            self.refusal = error
            return inputs
        self.sites.append(site)
        return tf.raw_ops.CheckNumerics(tensor=inputs, message=_MARK + json.dumps(asdict(site)))

    def _describe(self, layer: Any, inputs: Any) -> Site:
        path = self._paths.get(id(layer), layer.name)
        calls = sum(1 for site in self.sites if site.name.split("#")[0] == path)
        shape = tuple(inputs.shape)[1:]
        if str(getattr(inputs.dtype, "name", inputs.dtype)) != "float32":
            raise ModelRefused(
                f"The dropout layer {path} works in {getattr(inputs.dtype, 'name', inputs.dtype)}.",
                wanted="float32 wherever dropout is",
                next_step="load the model with the policy float32 (keras.config.set_dtype_policy), then export again",
            )
        if None in shape:
            raise ModelRefused(
                f"The dropout layer {path} sees a tensor of unknown size {list(shape)}.",
                wanted="sizes that follow from the image size",
                next_step="give the model a fixed input size",
            )
        noise_shape = _noise_shape(layer, shape)
        return Site(
            name=path if calls == 0 else f"{path}#{calls + 1}",
            kind="MCDropout" if noise_shape == shape else "MCBroadcastDropout",
            rate=float(layer.rate),
            shape=shape,
            noise_shape=noise_shape,
        )


def read_mark(message: str) -> Site | None:
    """The site that a CheckNumerics message marks; None where the message is not one of ours."""
    if not message.startswith(_MARK):
        return None
    values = json.loads(message[len(_MARK) :])
    values["shape"] = tuple(values["shape"])
    values["noise_shape"] = tuple(values["noise_shape"])
    return Site(**values)


def _noise_shape(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The mask of one row, without the batch axis: from `noise_shape`, or from what SpatialDropout does.

    A `noise_shape` that starts with 1 shares a mask between the rows of a batch. Here each row
    has its own draw: for one row the distribution is the same.
    """
    if hasattr(layer, "_get_noise_shape"):  # SpatialDropout: one draw for each channel
        channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
        singles = (1,) * (len(shape) - 1)
        return (*singles, shape[-1]) if channels_last else (shape[0], *singles)
    if layer.noise_shape is None:
        return shape
    first, *rest = layer.noise_shape
    filled = tuple(own if own is not None else size for own, size in zip(rest, shape, strict=False))
    fits = all(own in (1, size) for own, size in zip(filled, shape, strict=False))
    if len(rest) != len(shape) or first not in (None, 1) or not fits:
        raise ModelRefused(
            f"The dropout layer {layer.name} has noise_shape {layer.noise_shape} on rows of {list(shape)}.",
            wanted="None or 1 for the batch, and for each other axis its size, None or 1",
            next_step="rebuild the layer with such a noise_shape",
        )
    return filled


class KerasReference:
    """The Keras model as a reference: what it says without dropout, and with fresh noise.

    Args:
        model: the `keras.Model`.
        dropouts: its kept dropout layers.
        preprocessing: what the exported graph does to pixels, done here in numpy.
        seed: of its noise; the model's own generators are left alone.
    """

    def __init__(self, model: Any, dropouts: Sequence[Any], preprocessing: Preprocessing, *, seed: int = 0) -> None:
        import keras

        self._noise = draw_noise(keras.random.SeedGenerator(seed))
        self._model = model
        self._dropouts = dropouts
        self._preprocessing = preprocessing

    def deterministic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[B, C]` with no dropout at all."""
        return self._answer(images, keep_identity)

    def stochastic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[B, C]` with fresh dropout noise for every row, all else in inference mode."""
        return self._answer(images, self._noise)

    def _answer(self, images: NDArray[np.uint8], behaviour: Behaviour) -> NDArray[np.float32]:
        pixels = self._preprocessing.apply(images)
        with dropouts_behave(self._dropouts, behaviour):
            return np.asarray(self._call(pixels), np.float32)

    def _call(self, pixels: NDArray[np.float32]) -> Any:
        """Call the model; where TensorFlow has no channels-first kernels for this CPU, through XLA, which has."""
        import tensorflow as tf

        try:
            return self._model(pixels, training=False)
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            if not self._preprocessing.channels_first:
                raise

        def forward(image: Any) -> Any:
            return self._model(image, training=False)

        return tf.function(forward, jit_compile=True)(tf.constant(pixels))
