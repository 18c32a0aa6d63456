"""The interface through which tracing and verification call a loaded network.

In: a Keras model and its kept noise layers. Out: a `KerasNetwork`, which computes one output in float32, for any
precision of the model, and a `KerasReference` for the comparison with the exported file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from textwrap import shorten
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.model_source import Noise, NormInputs, SourcePass
from export.source.noise import NoiseLayer
from export.source.norms import norms_recorded
from export.source.stochastic import Behaviour, NoiseRecorder, keep_identity, noise_replaced

_AS_TRAINED = "as trained"
"""Key of the trace in the precision of the model."""

_OTHER_ROUNDINGS = 3
"""Number of passes in `KerasReference.other_roundings`."""


class Network(Protocol):
    """A loaded network, independent of the framework."""

    def forward(self, images: Any, behaviour: Behaviour, *, training: bool = False, precision: str = "float32") -> Any:
        """The output `float32 [N, C]` for `images`, with `behaviour` in place of the calls of the kept noise layers.

        `images` has the type float32 and the shape of the model's input with the batch axis.

        `training` is True only in `export.source.hidden`, which searches for noise that Keras disables in inference.
        `precision` is the type in which all layers except the kept noise layers compute, float32 or float64.
        """

    @property
    def has_other_precision(self) -> bool:
        """Whether a layer of the model computes in another precision than float32."""

    def forward_as_trained(self, images: Any) -> Any:
        """The output without noise, computed in the precision of the model."""

    def large_weights(self, at_least: int) -> list[Any]:
        """The weights with at least `at_least` bytes in float32."""

    def biases(self) -> list[NDArray[np.float32]]:
        """The biases of all layers."""

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

    def forward(self, images: Any, behaviour: Behaviour, *, training: bool = False, precision: str = "float32") -> Any:
        """See `Network.forward`."""
        with in_precision(self.model, precision, [source.layer for source in self.kept]):
            return self._call(images, behaviour, training=training)

    @property
    def has_other_precision(self) -> bool:
        """See `Network.has_other_precision`."""
        return bool(other_precisions(self.model))

    def forward_as_trained(self, images: Any) -> Any:
        """See `Network.forward_as_trained`."""
        return self._call(images, keep_identity, training=False)

    def large_weights(self, at_least: int) -> list[Any]:
        """See `Network.large_weights`."""
        return [weight for weight in self.model.weights if 4 * int(np.prod(weight.shape)) >= at_least]

    def biases(self) -> list[NDArray[np.float32]]:
        """See `Network.biases`."""
        return [np.asarray(weight, np.float32) for weight in self.model.weights if weight.name == "bias"]

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
    """Reference for the verification: passes of a Keras network on raw pixels.

    Args:
        network: the loaded network.
        preprocessing: preprocessing of the exported graph, applied here in numpy.
    """

    def __init__(self, network: Network, preprocessing: Preprocessing) -> None:
        self._network = network
        self._preprocessing = preprocessing
        self._compiled: dict[tuple[str, bool, bool], Any] = {}

    def under(self, preprocessing: Preprocessing) -> KerasReference:
        """The reference of the same network under another preprocessing with the same order of the axes."""
        other = KerasReference(self._network, preprocessing)
        other._compiled = self._compiled  # a trace begins with preprocessed pixels
        return other

    def biases(self) -> list[NDArray[np.float32]]:
        """The biases of all layers."""
        return self._network.biases()

    def deterministic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs `[B, C]` without dropout."""
        return self.without_noise(images).outputs

    def as_trained(self, images: NDArray[np.uint8]) -> SourcePass | None:
        """A pass without dropout in the precision of the model; None if that precision is float32."""
        if not self._network.has_other_precision:
            return None
        return self._run(self._preprocessing.apply(images), None, _AS_TRAINED)

    def without_noise(self, images: NDArray[np.uint8]) -> SourcePass:
        """A pass without dropout on `uint8 [B, H, W, C]`."""
        return self._run(self._preprocessing.apply(images), None)

    def draw(self, images: NDArray[np.uint8], seed: int) -> SourcePass:
        """A pass on `uint8 [B, H, W, C]` with new noise for every row; equal seeds give equal noise.

        All layers except the kept noise layers are in inference mode, and the states of the layers' own generators do
        not change.
        """
        return self._run(self._preprocessing.apply(images), seed)

    def other_roundings(self, images: NDArray[np.uint8], seed: int | None) -> list[SourcePass]:
        """Repetitions of the pass of `draw`, or of `without_noise` if `seed` is None, with other rounding errors.

        The layers compute in float64, if the model supports it, and the pixels are changed by rounding errors of
        float32. Therefore the differences from the pass in float32 contain that pass's rounding errors and their
        amplification.
        """
        import tensorflow as tf

        pixels, rng = self._preprocessing.apply(images), np.random.default_rng(0)
        passes = []
        for _ in range(_OTHER_ROUNDINGS):
            # Absolute values only grow, because a model may truncate its inputs to integers.
            changed = (pixels * (1 + rng.integers(0, 3, pixels.shape) * 2.0**-23)).astype(np.float32)
            try:
                passes.append(self._run(changed, seed, "float64"))
            except (TypeError, ValueError, tf.errors.OpError):  # a layer of the model requires float32
                passes.append(self._run(changed, seed))
        return passes

    def _run(self, images: NDArray[np.float32], seed: int | None, precision: str = "float32") -> SourcePass:
        """A pass on preprocessed pixels; compiled with XLA if TensorFlow lacks channels-first kernels for this CPU."""
        import tensorflow as tf

        pixels, number = tf.constant(images), tf.constant(seed or 0, tf.int32)
        noisy, shape = seed is not None, pixels.shape[1:]
        try:
            values = self._function(precision, noisy, shape, jit_compile=False)(pixels, number)
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            if not self._preprocessing.channels_first:
                raise
            values = self._function(precision, noisy, shape, jit_compile=True)(pixels, number)
        outputs, before, noise, norms = values
        return SourcePass(
            outputs.numpy(),
            None if before is None else before.numpy().astype(np.float32, copy=False),
            {name: Noise(factor.numpy(), shift.numpy()) for name, (factor, shift) in noise.items()},
            tuple(NormInputs(*(tensor.numpy() for tensor in norm)) for norm in norms),
        )

    def _function(self, precision: str, noisy: bool, shape: Any, *, jit_compile: bool) -> Any:
        """The traced network, from pixels and a seed to the tensors of a `SourcePass`."""
        import tensorflow as tf

        def compute(pixels: Any, seed: Any) -> Any:
            recorder = NoiseRecorder(seed)
            with norms_recorded() as norms:
                if precision == _AS_TRAINED:
                    outputs = self._network.forward_as_trained(pixels)
                else:
                    behaviour = recorder if noisy else keep_identity
                    outputs = self._network.forward(pixels, behaviour, precision=precision)
            return outputs, _before_activation(outputs), recorder.noise, norms

        key = (precision, noisy, jit_compile)
        if key not in self._compiled:
            function = tf.function(compute, jit_compile=jit_compile or None)
            signature = tf.TensorSpec([None, *shape], tf.float32), tf.TensorSpec([], tf.int32)
            self._compiled[key] = function.get_concrete_function(*signature)
        return self._compiled[key]


def _before_activation(outputs: Any) -> Any | None:
    """The values in a trace from which a softmax or sigmoid computes the outputs; None for any other operation."""
    import tensorflow as tf

    operation = outputs.op
    while operation.type in ("Cast", "Identity", "Reshape", "Squeeze", "ExpandDims"):
        operation = operation.inputs[0].op
    return tf.reshape(operation.inputs[0], tf.shape(outputs)) if operation.type in ("Sigmoid", "Softmax") else None


def reason_in(error: Exception) -> str:
    """The reason in an error of Keras or TensorFlow, as one line without the names of the enclosing calls."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    raised = [index for index, line in enumerate(lines) if re.match(r"\w+(?:Error|Exception): ", line)]
    first = lines[raised[-1]].partition(": ")[2] if raised else lines[0]
    following = lines[raised[-1] + 1 :] if raised else lines[1:]
    inner = [line.partition(": ")[2] for line in lines if line.startswith("Exception encountered: ")]
    if inner:
        first = inner[-1]
    elif first.startswith("Exception encountered when") and following:
        first = following[0]
    return shorten(first, 300).rstrip(".")


def other_precisions(model: Any) -> tuple[str, ...]:
    """Compute precisions of the model's layers other than float32, sorted."""
    precisions = {layer.dtype_policy.compute_dtype for layer in _layers_with_policy(model)}
    return tuple(sorted(precisions - {"float32"}))


@contextmanager
def in_precision(model: Any, precision: str, in_float32: Sequence[Any] = ()) -> Iterator[None]:
    """Within the block, all layers compute in the given precision; variables are cast when they are read.

    Half precision serves to shorten the training. A model in half precision is exported in float32, because onnxruntime
    has few half-precision kernels on the CPU, and because uncertainty scores are differences of nearly equal numbers.

    Args:
        model: the Keras model.
        precision: `float32` or `float64`.
        in_float32: layers that compute in float32 in any case.
    """
    import keras

    class Policy(keras.dtype_policies.DTypePolicy):  # type: ignore[misc]
        """Policy that computes in another type and keeps the type of the variables."""

        def __init__(self, compute_dtype: str, variable_dtype: str) -> None:
            super().__init__(compute_dtype)
            self._kept = variable_dtype

        @property
        def variable_dtype(self) -> str:
            return self._kept

    exceptions = {id(layer) for layer in in_float32}
    with ExitStack() as stack:
        for layer in _layers_with_policy(model):
            policy, wanted = layer.dtype_policy, "float32" if id(layer) in exceptions else precision
            if policy.compute_dtype != wanted:
                stack.callback(setattr, layer, "dtype_policy", policy)
                layer.dtype_policy = Policy(wanted, policy.variable_dtype)
        yield


def _layers_with_policy(model: Any) -> list[Any]:
    return list(model._flatten_layers(include_self=True, recursive=True))
