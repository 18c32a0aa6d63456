"""Make each chosen noise layer survive tracing, or behave as a reference needs it.

Keras' own dropout dies on its way to ONNX: converters drop it, fold it or meet random ops that
they do not know. So for the time of a trace the noise layers' classes are given another `call`,
which marks its place with a `CheckNumerics` op: that op passes its tensor through, carries a text,
and is kept by TensorFlow's graph optimiser. `export.graph.convert` turns the marks into noise functions.
A subclass that calls its parent, whatever it does around it, is reached too. Everything else is
traced with `training=False`, so BatchNormalization stays in inference mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from export.contract.metadata import Site
from export.errors import ModelRefused
from export.source.noise import BROADCAST_KINDS, ELEMENT_KINDS, NoiseLayer, noise_classes, noise_shape_of

Behaviour = Callable[["NoiseCall", Any], Any]
"""What a kept noise layer does instead of its own call: (the call, inputs) to outputs."""

_MARK = "oodscreen-site:"


class NoiseCall:
    """One call of a kept noise layer.

    Args:
        path: the layer's path in the model.
        family: `Dropout`, `GaussianDropout` or `AlphaDropout`.
        rate: the rate of the export.
        noise_shape: from the shape of a row to the shape of its draw.
        own_noise: what the framework itself does to the inputs in training.
    """

    def __init__(
        self,
        path: str,
        family: str,
        rate: float,
        noise_shape: Callable[[tuple[int, ...]], tuple[int, ...]],
        own_noise: Callable[[Any], Any],
    ) -> None:
        self.path = path
        self.family = family
        self.rate = rate
        self.noise_shape = noise_shape
        self.own_noise = own_noise


@contextmanager
def noise_behaves(kept: Sequence[NoiseLayer], behaviour: Behaviour) -> Iterator[None]:
    """For the time of the block the kept layers do what `behaviour` says, and other noise layers nothing.

    Whatever `training` they get, and whatever a subclass hands to its parent.
    """
    by_identity = {id(source.layer): source for source in kept}
    with ExitStack() as stack:
        for kind in noise_classes():
            original = kind.call  # type: ignore[attr-defined]

            def replaced(layer: Any, inputs: Any, training: Any = None, original: Any = original) -> Any:
                source = by_identity.get(id(layer))
                return inputs if source is None else behaviour(_call_of(source, original), inputs)

            kind.call = replaced  # type: ignore[attr-defined]
            stack.callback(setattr, kind, "call", original)
        yield


def _call_of(source: NoiseLayer, original: Any) -> NoiseCall:
    layer = source.layer

    def own_noise(inputs: Any) -> Any:
        """Keras' own code, with the rate of the export, and a draw for every row."""
        noise_shape = getattr(layer, "noise_shape", None)
        changes: dict[str, Any] = {"rate": source.rate}
        if noise_shape is not None:
            changes["noise_shape"] = (None, *noise_shape[1:])
        with _attributes(layer, changes):
            return original(layer, inputs, training=True)

    return NoiseCall(source.path, source.family, source.rate, lambda shape: noise_shape_of(layer, shape), own_noise)


@contextmanager
def _attributes(layer: Any, changes: Mapping[str, Any]) -> Iterator[None]:
    """For the time of the block, `layer` has these attributes; Keras' tracker does not see it."""
    before = {name: getattr(layer, name) for name in changes}
    for name, value in changes.items():
        object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(layer, name, value)


@contextmanager
def seeded(kept: Sequence[NoiseLayer], generators: Mapping[int, Any]) -> Iterator[None]:
    """For the time of the block, kept layers draw from these generators; their own are left alone."""
    with ExitStack() as stack:
        for source in kept:
            changes = {"seed_generator": generators[id(source.layer)]}
            stack.enter_context(_attributes(source.layer, changes))
        yield


def keep_identity(_call: NoiseCall, inputs: Any) -> Any:
    """The deterministic model: dropout does nothing."""
    return inputs


def draw_own_noise(call: NoiseCall, inputs: Any) -> Any:
    """The Monte Carlo model in the framework itself: dropout draws, all else is in inference mode."""
    return call.own_noise(inputs)


class SiteMarker:
    """The behaviour for tracing: marks each call of a noise layer, and remembers it as a `Site`.

    Attributes:
        sites: in the order of the calls, with shapes as Keras has them.
        refusal: why a site cannot be kept. It is kept here because Keras turns what a layer's
            call raises into another error.
    """

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.refusal: ModelRefused | None = None

    def __call__(self, call: NoiseCall, inputs: Any) -> Any:
        """Mark one call; what goes in comes out."""
        import tensorflow as tf

        try:
            site = self._describe(call, inputs)
        except ModelRefused as error:
            self.refusal = error
            return inputs
        self.sites.append(site)
        return tf.raw_ops.CheckNumerics(tensor=inputs, message=_MARK + json.dumps(asdict(site)))

    def _describe(self, call: NoiseCall, inputs: Any) -> Site:
        calls = sum(1 for site in self.sites if site.name.split("#")[0] == call.path)
        if inputs.shape.rank is None or None in tuple(inputs.shape)[1:]:
            raise ModelRefused(
                f"The dropout layer {call.path} sees a tensor of unknown size {inputs.shape}.",
                wanted="sizes that follow from the image size",
                next_step="give the model a fixed input size",
            )
        shape = tuple(inputs.shape)[1:]
        if str(getattr(inputs.dtype, "name", inputs.dtype)) != "float32":
            raise ModelRefused(
                f"The dropout layer {call.path} works in {getattr(inputs.dtype, 'name', inputs.dtype)}, "
                "whatever the model's dtype policy says.",
                wanted="a model that computes in float32 when its policy is float32",
                next_step="leave out the cast in front of the layer, then export again",
            )
        noise_shape = call.noise_shape(shape)
        kinds = ELEMENT_KINDS if noise_shape == shape else BROADCAST_KINDS
        return Site(
            name=call.path if calls == 0 else f"{call.path}#{calls + 1}",
            kind=kinds[call.family],
            rate=call.rate,
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
