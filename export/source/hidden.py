"""Find noise that an export would lose or freeze: by tracing, not by a list of layer names.

In: a network and its layers. Out: notices, or `ModelRefused`. Two traces are looked at: what draws
random numbers in inference although it is no site, and what draws them only in training, which
inference switches off without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from export.errors import ModelRefused
from export.source.choice import SiteChoice
from export.source.network import Network
from export.source.stochastic import NoiseCall

RANDOM_OPERATION = re.compile(r"Random|Multinomial|TruncatedNormal|StatefulStandardNormal|StatefulUniform")
"""TensorFlow's operations that draw random numbers, by their kind."""


class _Watcher:
    """A behaviour that changes nothing and notes which noise layers are called."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def __call__(self, call: NoiseCall, inputs: Any) -> Any:
        self.called.add(call.path)
        return inputs


def find_hidden_noise(
    network: Network,
    layers: Mapping[str, Any],
    kept: Sequence[str],
    image_shape: tuple[int, int, int],
    choice: SiteChoice,
    origin: str,
) -> tuple[str, ...]:
    """What a person should know of noise that is not kept.

    Args:
        network: the network.
        layers: its layers by path.
        kept: paths of the noise layers that are kept.
        image_shape: what it takes.
        choice: a stated `--keep` allows other noise to be switched off.
        origin: the model's name, for messages.

    Raises:
        ModelRefused: a layer draws random numbers of its own in inference, or noise of the training
            would fall silent and the user did not choose that.
    """
    inference, called = _random_operations(network, image_shape, training=False)
    if inference:
        raise ModelRefused(
            f"{origin} draws random numbers outside its dropout layers: {_names(inference, layers)}.",
            wanted="noise from Dropout, SpatialDropout, GaussianDropout or AlphaDropout layers, or subclasses "
            "that call their parent",
            next_step="use such a layer instead of keras.random or tf.random, then export again",
        )
    training, called_in_training = _random_operations(network, image_shape, training=True)
    gated = sorted(path for path in set(kept) & called_in_training - called)
    if gated:
        raise ModelRefused(
            f"{origin} calls dropout layers only where `training` is true: {', '.join(gated)}.",
            wanted="layers that are always called; Dropout itself knows what training is",
            next_step="take the condition out of the model's call, or leave these layers out by --keep",
        )
    notices = [f"{path} is never called, so it is no site" for path in kept if path not in called | called_in_training]
    culprits = _culprits(training, layers)
    harmless = {name for name, layer in culprits.items() if layer is not None and _is_augmentation(layer)}
    lost = sorted(set(culprits) - harmless)
    if lost and not choice.keep:
        raise ModelRefused(
            f"{origin} was trained with noise that would fall silent in the export: {_described(lost, culprits)}.",
            wanted="noise from Dropout, SpatialDropout, GaussianDropout or AlphaDropout layers",
            next_step="replace it by such a layer, or say which sites are enough: --keep 'PATTERN'",
        )
    notices += [
        f"{name} ({type(culprits[name]).__name__}) is switched off, as Keras does in inference"
        for name in sorted(harmless)
    ]
    notices += [f"{_described([name], culprits)} is switched off; --keep chose other sites" for name in lost]
    return tuple(notices)


def random_operations(graph: Any) -> list[str]:
    """Names of the operations that draw random numbers on the way to a traced function's outputs.

    Recurrent layers draw masks that they then do not use in inference; those are not on the way.
    """
    functions = {one.signature.name: one.node_def for one in graph.as_graph_def().library.function}
    found: list[str] = []
    seen: set[str] = set()
    waiting = [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            found += [operation.name] if RANDOM_OPERATION.search(operation.type) else []
            found += _random_within(operation.node_def, functions)
            waiting += [value.op for value in operation.inputs]
    return found


def _random_within(node: Any, functions: Mapping[str, Sequence[Any]]) -> list[str]:
    """The same of the functions that an operation calls, such as a loop's body, and of those that they call."""
    found: list[str] = []
    for value in node.attr.values():
        for called in (value.func.name, *(one.name for one in value.list.func)):
            for inner in functions.get(called, ()):
                found += [inner.name] if RANDOM_OPERATION.search(inner.op) else []
                found += _random_within(inner, functions)
    return found


def _random_operations(
    network: Network, image_shape: tuple[int, int, int], *, training: bool
) -> tuple[list[str], set[str]]:
    import tensorflow as tf

    watcher = _Watcher()
    function = tf.function(lambda image: network.answer(image, watcher, training=training))
    concrete = function.get_concrete_function(tf.TensorSpec([None, *image_shape], tf.float32))
    return random_operations(concrete.graph), watcher.called


def _culprits(operations: Iterable[str], layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers behind random operations by path; an operation outside any layer stands for itself, with None.

    TensorFlow names an operation after the scopes around it, and each Keras layer opens a scope of
    its own name, to which TensorFlow adds a number where the name was taken.
    """
    by_name = {path.rsplit("/", 1)[-1]: path for path in layers}
    found: dict[str, Any] = {}
    for operation in operations:
        scopes = [by_name.get(part) or by_name.get(re.sub(r"_\d+$", "", part)) for part in operation.split("/")]
        innermost = next((path for path in reversed(scopes) if path), None)
        found[innermost or operation] = layers[innermost] if innermost else None
    return found


def _is_augmentation(layer: Any) -> bool:
    """Noise on inputs that is no dropout: Keras' own augmentation layers and GaussianNoise."""
    module = type(layer).__module__
    return module.startswith("keras.src.layers.preprocessing") or type(layer).__name__ == "GaussianNoise"


def _names(operations: Iterable[str], layers: Mapping[str, Any]) -> str:
    culprits = _culprits(operations, layers)
    return _described(sorted(culprits), culprits)


def _described(names: Iterable[str], culprits: Mapping[str, Any]) -> str:
    return ", ".join(name if culprits[name] is None else f"{name} ({type(culprits[name]).__name__})" for name in names)
