"""A loaded network, as tracing and the proof call it: float32 images in, the chosen output out.

In: a Keras model and which of its noise layers are kept. Out: `KerasNetwork`, which computes in
float32 whatever precision the model was trained in, with the noise layers behaving as told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.source.noise import NoiseLayer
from export.source.stochastic import Behaviour, draw_own_noise, keep_identity, noise_behaves, seeded


class Network(Protocol):
    """What an export needs of a loaded network, whatever it was loaded from."""

    def answer(self, images: Any, behaviour: Behaviour, *, training: bool = False) -> Any:
        """The output `float32 [N, C]` for `float32 [N, H, W, C]`, with noise layers behaving as told.

        `training` is True only to look for noise that inference switches off.
        """

    def answer_as_trained(self, images: Any) -> Any | None:
        """The deterministic output in the precision of the model itself; None where that is float32."""

    def draw(self, images: Any, seed: int) -> Any:
        """The output with fresh noise from the framework itself; successive calls go on."""

    def large_weights(self, at_least: int) -> list[Any]:
        """Variables of this many bytes or more, which must not become part of a traced graph."""

    def holding(self, weights: Sequence[tuple[Any, Any]]) -> Any:
        """A context in which variables have these values: pairs of a variable and a tensor."""


class KerasNetwork:
    """A Keras model, with one of its outputs and some of its noise layers.

    Args:
        model: the `keras.Model`.
        kept: its noise layers that are kept; all others pass their input through.
        output: which output, counted in the flat order of the model's outputs.
    """

    def __init__(self, model: Any, kept: Sequence[NoiseLayer], output: int = 0) -> None:
        self.model = model
        self.kept = tuple(kept)
        self._output = output
        self._generators: dict[int, Any] | None = None

    def answer(self, images: Any, behaviour: Behaviour, *, training: bool = False) -> Any:
        """See `Network.answer`."""
        with in_float32(self.model):
            return self._call(images, behaviour, training=training)

    def answer_as_trained(self, images: Any) -> Any | None:
        """See `Network.answer_as_trained`."""
        if not other_precisions(self.model):
            return None
        return self._call(images, keep_identity, training=False)

    def draw(self, images: Any, seed: int) -> Any:
        """See `Network.draw`."""
        import keras

        if self._generators is None:
            self._generators = {
                id(source.layer): keras.random.SeedGenerator(seed * 1009 + index)
                for index, source in enumerate(self.kept)
            }
        with seeded(self.kept, self._generators):
            return self.answer(images, draw_own_noise)

    def large_weights(self, at_least: int) -> list[Any]:
        """See `Network.large_weights`."""
        return [weight for weight in self.model.weights if 4 * int(np.prod(weight.shape)) >= at_least]

    def holding(self, weights: Sequence[tuple[Any, Any]]) -> Any:
        """See `Network.holding`."""
        import keras

        return keras.StatelessScope(state_mapping=list(weights))

    def _call(self, images: Any, behaviour: Behaviour, *, training: bool) -> Any:
        import keras

        structure = getattr(self.model, "_inputs_struct", None)
        if structure is not None:
            images = keras.tree.pack_sequence_as(structure, [images])
        with noise_behaves(self.kept, behaviour):
            answers = keras.tree.flatten(self.model(images, training=training))
        return keras.ops.cast(answers[self._output], "float32")


class KerasReference:
    """The network as a reference: what the framework says without dropout, and with fresh noise.

    Args:
        network: the loaded network.
        preprocessing: what the exported graph does to pixels, done here in numpy.
        seed: of its noise; the model's own generators are left alone.
    """

    def __init__(self, network: Network, preprocessing: Preprocessing, *, seed: int = 0) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._seed = seed

    def deterministic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[B, C]` with no dropout at all."""
        return self._call(images, lambda pixels: self._network.answer(pixels, keep_identity))

    def as_trained(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """`[B, C]` with no dropout, in half precision where the model has it; else None."""
        answer = self._network.answer_as_trained(self._preprocessing.apply(images))
        return None if answer is None else _to_numpy(answer)

    def stochastic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[B, C]` with fresh dropout noise for every row, all else in inference mode."""
        return self._call(images, lambda pixels: self._network.draw(pixels, self._seed))

    def _call(self, images: NDArray[np.uint8], answer: Callable[[Any], Any]) -> NDArray[np.float32]:
        """Ask the network; where TensorFlow has no channels-first kernels for this CPU, through XLA, which has."""
        import tensorflow as tf

        pixels = self._preprocessing.apply(images)
        try:
            return _to_numpy(answer(pixels))
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            if not self._preprocessing.channels_first:
                raise
        return _to_numpy(tf.function(answer, jit_compile=True)(tf.constant(pixels)))


def other_precisions(model: Any) -> tuple[str, ...]:
    """The precisions other than float32 in which layers of the model compute, sorted."""
    found = {layer.dtype_policy.compute_dtype for layer in _layers_with_policy(model)}
    return tuple(sorted(found - {"float32"}))


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """For the time of the block every layer computes in float32; variables are cast where they are read.

    Half precision is for training speed: onnxruntime's CPU has no kernels for most of it, and
    uncertainty is a difference of nearly equal numbers.
    """
    import keras

    class Float32(keras.dtype_policies.DTypePolicy):  # type: ignore[misc]
        """Computes in float32, with variables as they are."""

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


def _to_numpy(answer: Any) -> NDArray[np.float32]:
    return np.asarray(answer, np.float32)
