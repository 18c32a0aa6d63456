"""The interface through which tracing and verification call a loaded network.

In: a Keras model and its kept noise layers. Out: a `KerasNetwork`, which computes one output in float32, for any
precision of the model, and a `KerasReference` for the comparison with the exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.source.noise import NoiseLayer
from export.source.stochastic import Behaviour, draw_own_noise, keep_identity, noise_replaced, seeded


class Network(Protocol):
    """A loaded network, independent of the framework."""

    def forward(self, images: Any, behaviour: Behaviour, *, training: bool = False) -> Any:
        """The output `float32 [N, C]` for `float32 [N, H, W, C]`, with `behaviour` in place of the noise layers' calls.

        `training` is True only in `export.source.hidden`, which searches for noise that Keras disables in inference.
        """

    def forward_as_trained(self, images: Any) -> Any | None:
        """The output without noise, in the precision of the model; None if that precision is float32."""

    def sample(self, images: Any, seed: int) -> Any:
        """The output with noise drawn by the framework; later calls ignore `seed` and continue the random stream."""

    def large_weights(self, at_least: int) -> list[Any]:
        """The weights with at least `at_least` bytes in float32."""

    def substitute(self, weights: Sequence[tuple[Any, Any]]) -> Any:
        """A context in which variables have other values: `weights` contains pairs of a variable and its value."""


class KerasNetwork:
    """One output of a Keras model, with its kept noise layers.

    Args:
        model: the `keras.Model`.
        kept: kept noise layers of the model; all other noise layers return their inputs.
        output: index of the output in the flat order of the model's outputs.
    """

    def __init__(self, model: Any, kept: Sequence[NoiseLayer], output: int = 0) -> None:
        self.model = model
        self.kept = tuple(kept)
        self._output = output
        self._generators: dict[int, Any] | None = None

    def forward(self, images: Any, behaviour: Behaviour, *, training: bool = False) -> Any:
        """See `Network.forward`."""
        with in_float32(self.model):
            return self._call(images, behaviour, training=training)

    def forward_as_trained(self, images: Any) -> Any | None:
        """See `Network.forward_as_trained`."""
        if not other_precisions(self.model):
            return None
        return self._call(images, keep_identity, training=False)

    def sample(self, images: Any, seed: int) -> Any:
        """See `Network.sample`."""
        import keras

        if self._generators is None:
            self._generators = {
                id(source.layer): keras.random.SeedGenerator(seed * 1009 + index)
                for index, source in enumerate(self.kept)
            }
        with seeded(self.kept, self._generators):
            return self.forward(images, draw_own_noise)

    def large_weights(self, at_least: int) -> list[Any]:
        """See `Network.large_weights`."""
        return [weight for weight in self.model.weights if 4 * int(np.prod(weight.shape)) >= at_least]

    def substitute(self, weights: Sequence[tuple[Any, Any]]) -> Any:
        """See `Network.substitute`."""
        import keras

        return keras.StatelessScope(state_mapping=list(weights))

    def _call(self, images: Any, behaviour: Behaviour, *, training: bool) -> Any:
        import keras

        structure = getattr(self.model, "_inputs_struct", None)
        if structure is not None:
            images = keras.tree.pack_sequence_as(structure, [images])
        with noise_replaced(self.kept, behaviour):
            outputs = keras.tree.flatten(self.model(images, training=training))
        return keras.ops.cast(outputs[self._output], "float32")


class KerasReference:
    """Reference outputs for the verification: the outputs of a Keras network for raw pixels.

    Args:
        network: the loaded network.
        preprocessing: preprocessing of the exported graph, applied here in numpy.
        seed: seed for the noise; the state of the model's own generators does not change.
    """

    def __init__(self, network: Network, preprocessing: Preprocessing, *, seed: int = 0) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._seed = seed

    def deterministic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs `[B, C]` without dropout."""
        return self._call(images, lambda pixels: self._network.forward(pixels, keep_identity))

    def as_trained(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Outputs `[B, C]` without dropout, in the precision of the model; None if that precision is float32."""
        outputs = self._network.forward_as_trained(self._preprocessing.apply(images))
        return None if outputs is None else _to_numpy(outputs)

    def stochastic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs `[B, C]` with new dropout noise for every row; all other layers are in inference mode."""
        return self._call(images, lambda pixels: self._network.sample(pixels, self._seed))

    def _call(self, images: NDArray[np.uint8], predict: Callable[[Any], Any]) -> NDArray[np.float32]:
        """Outputs of `predict`, compiled with XLA if TensorFlow lacks channels-first kernels for this CPU."""
        import tensorflow as tf

        pixels = self._preprocessing.apply(images)
        try:
            return _to_numpy(predict(pixels))
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            if not self._preprocessing.channels_first:
                raise
        return _to_numpy(tf.function(predict, jit_compile=True)(tf.constant(pixels)))


def other_precisions(model: Any) -> tuple[str, ...]:
    """Compute precisions of the model's layers other than float32, sorted."""
    precisions = {layer.dtype_policy.compute_dtype for layer in _layers_with_policy(model)}
    return tuple(sorted(precisions - {"float32"}))


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Within the block, all layers compute in float32; variables are cast when they are read.

    Half precision is a means to train faster. It is not exported, because onnxruntime has few half-precision kernels on
    the CPU, and because uncertainty scores are differences of nearly equal numbers.
    """
    import keras

    class Float32(keras.dtype_policies.DTypePolicy):  # type: ignore[misc]
        """Policy that computes in float32 and keeps the type of the variables."""

        def __init__(self, variable_dtype: str) -> None:
            super().__init__("float32")
            self._kept = variable_dtype

        @property
        def variable_dtype(self) -> str:
            return self._kept

    with ExitStack() as stack:
        for layer in _layers_with_policy(model):
            policy = layer.dtype_policy
            if policy.compute_dtype != "float32":
                stack.callback(setattr, layer, "dtype_policy", policy)
                layer.dtype_policy = Float32(policy.variable_dtype)
        yield


def _layers_with_policy(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=True, recursive=True))


def _to_numpy(outputs: Any) -> NDArray[np.float32]:
    return np.asarray(outputs, np.float32)
