"""Find random operations that an export would disable or make constant.

In: a network and its layers. Out: notices, or `ModelRefused`. Traces are searched, because a list of layer names
would be incomplete. A trace in inference mode contains the random operations outside the sites; a trace in training
mode also contains the random operations that Keras disables in inference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from export.errors import ModelRefused
from export.source.choice import SiteChoice
from export.source.network import Network, reason_in
from export.source.stochastic import Behaviour, NoiseCall

RANDOM_OPERATION = re.compile(r"Random|Multinomial|TruncatedNormal|StatefulStandardNormal|StatefulUniform")
"""Pattern of the types of TensorFlow operations that draw random numbers."""

_NOISE_LAYERS = "Dropout, SpatialDropout, GaussianDropout or AlphaDropout layers"


class _CallRecorder:
    """A behaviour that returns its input and records the paths of the called noise layers."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def __call__(self, call: NoiseCall, inputs: Any) -> Any:
        self.called.add(call.path)
        return inputs


def find_hidden_noise(
    network: Network,
    layers: Mapping[str, Any],
    kept: Sequence[str],
    input_shape: tuple[int, ...],
    choice: SiteChoice,
    origin: str,
) -> tuple[str, ...]:
    """Notices about noise that the export does not keep.

    Args:
        network: the network.
        layers: its layers by path.
        kept: paths of the kept noise layers.
        input_shape: shape of the network's input without the batch axis.
        choice: selection of sites; with `--keep-layer`, the export may disable other noise.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: an operation outside the sites draws random numbers in inference, a kept layer is called only in
            training, or the export would disable noise of the training although `--keep-layer` was not given.
    """
    inference, called = _random_operations(network, input_shape, origin, training=False)
    if inference:
        raise ModelRefused(
            f"{origin} draws random numbers outside its dropout layers: {_format_sources(inference, layers)}.",
            wanted=f"noise only from {_NOISE_LAYERS}, or from subclasses that call their parent",
            next_step="in the layer that calls keras.random or tf.random, create one of these layers and call it "
            "instead; then export the changed model",
        )
    training, called_in_training = _random_operations(network, input_shape, origin, training=True)
    gated = sorted(path for path in set(kept) & called_in_training - called)
    if gated:
        raise ModelRefused(
            f"{origin} calls dropout layers only if `training` is true: {', '.join(gated)}.",
            wanted="dropout layers that are called both in training and in inference",
            next_step="call these layers without the condition; Keras itself disables dropout in inference"
            + _keep_only([path for path in kept if path not in gated]),
        )
    notices = [
        f"{path} is never called, so it is not a site" for path in kept if path not in called | called_in_training
    ]
    sources = _find_sources(training, layers)
    augmentation = {name for name, layer in sources.items() if layer is not None and _is_augmentation(layer)}
    lost = sorted(set(sources) - augmentation)
    if lost and not choice.keep:
        raise ModelRefused(
            f"{origin} was trained with noise that the export would disable: {_format_names(lost, sources)}.",
            wanted=f"noise only from {_NOISE_LAYERS}",
            next_step="add --keep-layer '*' to keep all other dropout layers and disable this noise, or replace this "
            "noise by a dropout layer and train again",
        )
    notices += [
        f"{name} ({type(sources[name]).__name__}) is disabled, as in Keras' inference mode"
        for name in sorted(augmentation)
    ]
    notices += [
        f"{_format_names([name], sources)} is disabled, because --keep-layer keeps only dropout layers" for name in lost
    ]
    return tuple(notices)


def _keep_only(paths: Sequence[str]) -> str:
    """The end of a next step: the options that keep only these layers; "" without layers."""
    if not paths:
        return ""
    return ", or keep only other layers: " + " ".join(f"--keep-layer '{path}'" for path in paths)


def random_operations(graph: Any) -> list[str]:
    """Names of the random operations on which the outputs of a traced function depend.

    Masks that a recurrent layer draws but does not use in inference are not included.
    """
    functions = {one.signature.name: one.node_def for one in graph.as_graph_def().library.function}
    found: list[str] = []
    for operation in operations_before_output(graph):
        found += [operation.name] if RANDOM_OPERATION.search(operation.type) else []
        found += _random_within(operation.node_def, functions)
    return found


def operations_before_output(graph: Any, stop_at: Callable[[Any], bool] = lambda operation: False) -> Iterator[Any]:
    """The operations on which the outputs of a traced function depend, each once.

    Args:
        graph: traced function.
        stop_at: function that returns whether the operations before an operation are left out.
    """
    seen: set[str] = set()
    waiting = [output.op for output in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        yield operation
        if not stop_at(operation):
            waiting += [value.op for value in operation.inputs]


def _random_within(node: Any, functions: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of the random operations in the functions that an operation calls, such as a loop body, at any depth."""
    found: list[str] = []
    for value in node.attr.values():
        for called in (value.func.name, *(one.name for one in value.list.func)):
            for inner in functions.get(called, ()):
                found += [inner.name] if RANDOM_OPERATION.search(inner.op) else []
                found += _random_within(inner, functions)
    return found


def _random_operations(
    network: Network, input_shape: tuple[int, ...], origin: str, *, training: bool
) -> tuple[list[str], set[str]]:
    """Names of the random operations in a trace of the network, and paths of the noise layers that it calls.

    Raises:
        ModelRefused: a layer raises an error when it is called.
    """
    recorder = _CallRecorder()
    graph = trace_network(network, recorder, input_shape, origin, training=training)
    return random_operations(graph), recorder.called


def trace_network(
    network: Network, behaviour: Behaviour, input_shape: tuple[int, ...], origin: str, *, training: bool = False
) -> Any:
    """The graph of a trace of the network, from images `[N, *input_shape]` to outputs `[N, C]`.

    Raises:
        ModelRefused: a layer raises an error when it is called.
    """
    import tensorflow as tf

    function = tf.function(lambda image: network.forward(image, behaviour, training=training))
    try:
        return function.get_concrete_function(tf.TensorSpec([None, *input_shape], tf.float32)).graph
    except Exception as error:
        raise ModelRefused(
            f"Keras cannot compute {origin}, called with training={training}: {reason_in(error)}.",
            wanted="a model that can be called on images, both with training=False and with training=True",
            next_step="call the model in Python: "
            f"tf.function(model)(np.zeros({(1, *input_shape)}, 'float32'), training={training}); change the layer "
            "that fails, and save the model again",
        ) from error


def _find_sources(operations: Iterable[str], layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers that contain random operations, by path; for an operation outside all layers, its name and None.

    TensorFlow prefixes the name of an operation with the scopes around the operation. Each Keras layer opens a scope
    with the name of the layer; TensorFlow appends a number if this name is in use.
    """
    by_name = {path.rsplit("/", 1)[-1]: path for path in layers}
    found: dict[str, Any] = {}
    for operation in operations:
        scopes = [by_name.get(part) or by_name.get(re.sub(r"_\d+$", "", part)) for part in operation.split("/")]
        innermost = next((path for path in reversed(scopes) if path), None)
        found[innermost or operation] = layers[innermost] if innermost else None
    return found


def _is_augmentation(layer: Any) -> bool:
    """Whether a layer with random operations is an augmentation: GaussianNoise, or a preprocessing layer of Keras."""
    module = type(layer).__module__
    return module.startswith("keras.src.layers.preprocessing") or type(layer).__name__ == "GaussianNoise"


def _format_sources(operations: Iterable[str], layers: Mapping[str, Any]) -> str:
    sources = _find_sources(operations, layers)
    return _format_names(sorted(sources), sources)


def _format_names(names: Iterable[str], sources: Mapping[str, Any]) -> str:
    return ", ".join(name if sources[name] is None else f"{name} ({type(sources[name]).__name__})" for name in names)
