"""Replace the calls of the kept noise layers, to mark them in a trace or to control their noise.

In: the kept noise layers and a behaviour. Out: a context in which calls of these layers have this behaviour. Converters
to ONNX remove or fold Keras' dropout, or cannot convert its random operations. Therefore, during the trace, the classes
of the noise layers get another method `call`, which inserts a `CheckNumerics` operation as a mark. This operation
returns its input, has a text attribute, and is kept by TensorFlow's graph optimiser. `export.graph.convert` converts
the marks to noise nodes. A subclass that calls its parent is marked too. All other layers are traced with
`training=False`, so that BatchNormalization stays in inference mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from export.contract.metadata import INSERTED, Site
from export.errors import ModelRefused
from export.source.noise import BROADCAST_KINDS, ELEMENT_KINDS, NoiseLayer, noise_classes, noise_shape_of

Behaviour = Callable[["NoiseCall", Any], Any]
"""Function that replaces the call of a kept noise layer: from the `NoiseCall` and the inputs to the outputs."""

_MARK = "oodscreen-site:"
"""Prefix of the text of a mark."""


class NoiseCall:
    """One call of a kept noise layer.

    Args:
        path: path of the layer in the model.
        family: `Dropout`, `GaussianDropout` or `AlphaDropout`.
        rate: rate in the export.
        origin: `INSERTED` for an inserted layer; else "".
        noise_shape: function from the shape of a row to the shape of its mask.
        own_noise: function from the inputs and a seed, `int32 [2]`, to the layer's outputs in training.
    """

    def __init__(
        self,
        path: str,
        family: str,
        rate: float,
        origin: str,
        noise_shape: Callable[[tuple[int, ...]], tuple[int, ...]],
        own_noise: Callable[[Any, Any], Any],
    ) -> None:
        self.path = path
        self.family = family
        self.rate = rate
        self.origin = origin
        self.noise_shape = noise_shape
        self.own_noise = own_noise


@contextmanager
def noise_replaced(kept: Sequence[NoiseLayer], behaviour: Behaviour) -> Iterator[None]:
    """Within the block, calls of kept layers have the given behaviour, and other noise layers return their inputs.

    The argument `training` has no effect on these calls, even if a subclass passes it to its parent. An inserted layer
    is called on the input of the layer that follows it.
    """
    by_identity = {id(source.layer): source for source in kept}
    with ExitStack() as stack:
        for source in kept:
            if source.before is not None:
                call = _call_of(source, type(source.layer).call)
                stack.enter_context(inputs_changed(source.before, partial(_call_inserted, behaviour, call)))
        for kind in noise_classes():
            original = kind.call  # type: ignore[attr-defined]

            def replaced(layer: Any, inputs: Any, training: Any = None, original: Any = original) -> Any:
                source = by_identity.get(id(layer))
                return inputs if source is None else behaviour(_call_of(source, original), inputs)

            kind.call = replaced  # type: ignore[attr-defined]
            stack.callback(setattr, kind, "call", original)
        yield


@contextmanager
def inputs_changed(layer: Any, change: Callable[[list[Any]], list[Any]]) -> Iterator[None]:
    """Within the block, a layer is called on `change(tensors)` in place of the tensors among its arguments."""
    import keras
    import tensorflow as tf

    original = layer.call

    def call(*given: Any, **named: Any) -> Any:
        values = keras.tree.flatten((given, named))
        changed = iter(change([value for value in values if tf.is_tensor(value)]))
        values = [next(changed) if tf.is_tensor(value) else value for value in values]
        arguments, options = keras.tree.pack_sequence_as((given, named), values)
        return original(*arguments, **options)

    own = vars(layer).get("call")
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")
        if own is not None:
            object.__setattr__(layer, "call", own)


def is_float_tensor(value: Any) -> bool:
    """Whether a value is a tensor of TensorFlow with a floating-point type."""
    import tensorflow as tf

    return bool(tf.is_tensor(value) and value.dtype.is_floating)


def _call_inserted(behaviour: Behaviour, call: NoiseCall, tensors: list[Any]) -> list[Any]:
    """The outputs of an inserted layer, which computes in float32 as the kept layers of the model do."""
    import tensorflow as tf

    return [tf.cast(behaviour(call, tf.cast(one, tf.float32)), one.dtype) for one in tensors]


def _call_of(source: NoiseLayer, original: Any) -> NoiseCall:
    layer = source.layer

    def own_noise(inputs: Any, seed: Any) -> Any:
        """Outputs of the Keras layer in training, with the rate of the export and a mask for every row."""
        noise_shape = getattr(layer, "noise_shape", None)
        changes: dict[str, Any] = {"rate": source.rate, "seed_generator": _fixed_generator(seed)}
        if noise_shape is not None:
            changes["noise_shape"] = (None, *noise_shape[1:])
        with _attributes(layer, changes):
            return original(layer, inputs, training=True)

    return NoiseCall(
        source.path,
        source.family,
        source.rate,
        "" if source.before is None else INSERTED,
        lambda shape: noise_shape_of(layer, shape),
        own_noise,
    )


@contextmanager
def _attributes(layer: Any, changes: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, attributes of a layer have other values, which are set without Keras' attribute tracking."""
    before = {name: getattr(layer, name) for name in changes}
    for name, value in changes.items():
        object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)


def _fixed_generator(seed: Any) -> Any:
    """A seed generator of Keras that returns the same seed each time; it has no variable, so it works in a trace."""
    import keras

    class FixedSeed(keras.random.SeedGenerator):  # type: ignore[misc]
        def __init__(self) -> None:
            """Leave out the parent's variable for the state."""

        def next(self, ordered: bool = True) -> Any:
            return seed

    return FixedSeed()


def keep_identity(_call: NoiseCall, inputs: Any) -> Any:
    """Behaviour without noise, for the deterministic model."""
    return inputs


class NoiseRecorder:
    """Behaviour that draws the noise of the Keras layers and records it.

    For every kind of dropout, the outputs are `x * factor + shift` with a random factor and a random shift for each
    element of the inputs x; for dropout and Gaussian dropout, the shift is 0. The Keras layer itself computes both,
    from inputs of zeros and of ones with the same seed.

    Args:
        seed: seed of the pass, a scalar of type int32; each call of a layer draws from its own stream.

    Attributes:
        noise: by name of the site, factor and shift in the shape of the layer's inputs with the batch axis.
    """

    def __init__(self, seed: Any) -> None:
        self.noise: dict[str, tuple[Any, Any]] = {}
        self._seed = seed

    def __call__(self, call: NoiseCall, inputs: Any) -> Any:
        """The outputs of a call, with new noise."""
        import tensorflow as tf

        seed = tf.stack([self._seed, len(self.noise)])
        shift = call.own_noise(tf.zeros_like(inputs), seed)
        factor = call.own_noise(tf.ones_like(inputs), seed) - shift
        self.noise[_site_name(call.path, self.noise)] = (factor, shift)
        return inputs * factor + shift


def _site_name(path: str, taken: Iterable[str]) -> str:
    """Name of the site of a call: the path of the layer, from the second call on with `#` and the call's number."""
    calls = sum(1 for name in taken if name.split("#")[0] == path)
    return path if calls == 0 else f"{path}#{calls + 1}"


class SiteMarker:
    """Behaviour for tracing, which marks each call of a noise layer and records it as a `Site`.

    Attributes:
        sites: sites in the order of the calls, with shapes in Keras' axis order.
        refusal: the error for a site that cannot be exported; None if all sites can be exported. The error is stored
            and not raised, because Keras replaces exceptions in a layer's call by other exceptions.
    """

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.refusal: ModelRefused | None = None

    def __call__(self, call: NoiseCall, inputs: Any) -> Any:
        """The inputs of a call, with a mark and with unchanged values."""
        import tensorflow as tf

        try:
            site = self._describe(call, inputs)
        except ModelRefused as error:
            self.refusal = error
            return inputs
        self.sites.append(site)
        return tf.raw_ops.CheckNumerics(tensor=inputs, message=_MARK + json.dumps(asdict(site)))

    def _describe(self, call: NoiseCall, inputs: Any) -> Site:
        if inputs.shape.rank is None or None in tuple(inputs.shape)[1:]:
            raise ModelRefused(
                f"The dropout layer {call.path} has an input of unknown shape {inputs.shape}.",
                wanted="an input whose shape, except for the batch axis, is known in the trace",
                next_step="give the model a fixed input size, and the layers before this one fixed output shapes",
            )
        shape = tuple(inputs.shape)[1:]
        if str(getattr(inputs.dtype, "name", inputs.dtype)) != "float32":
            raise ModelRefused(
                f"The dropout layer {call.path} has an input of type {getattr(inputs.dtype, 'name', inputs.dtype)}, "
                "although the dtype policy of the export is float32.",
                wanted="a model that computes in float32 under the policy float32",
                next_step="remove the cast before this layer, then export again",
            )
        noise_shape = call.noise_shape(shape)
        kinds = ELEMENT_KINDS if noise_shape == shape else BROADCAST_KINDS
        return Site(
            name=_site_name(call.path, [site.name for site in self.sites]),
            kind=kinds[call.family],
            rate=call.rate,
            shape=shape,
            noise_shape=noise_shape,
            origin=call.origin,
        )


def read_mark(message: str) -> Site | None:
    """The site in the message of a CheckNumerics operation; None if the message is not a mark."""
    if not message.startswith(_MARK):
        return None
    values = json.loads(message[len(_MARK) :])
    values["shape"] = tuple(values["shape"])
    values["noise_shape"] = tuple(values["noise_shape"])
    return Site(**values)
