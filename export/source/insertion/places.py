"""Find the layers of a Keras network before which dropout can be inserted, from a trace.

In: a network and its layers by path. Out: a `Place` for each layer. A trace shows facts that the configuration of a
model does not contain: how often a layer is called, with which inputs, and whether the output depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from export.source.hidden import operations_before_output, trace_network
from export.source.network import Network
from export.source.noise import family_of
from export.source.stochastic import inputs_changed, is_float_tensor, keep_identity

_NO_LINEAR_MAPS = ("Embedding", "Normalization", "LayerNormalization", "PReLU")
"""Classes of layers in which a weight with several axes is not the matrix or the kernel of a linear map."""


@dataclass(frozen=True)
class Place:
    """A layer, before which dropout can be inserted unless `problem` is set.

    Attributes:
        path: path of the layer.
        kind: name of the layer's class.
        shape: shape of the layer's input without the batch axis; empty if unknown.
        has_weights: whether the layer multiplies its input by a matrix or a kernel.
        makes_outputs: whether the layer has weights, and no layer with weights is between this layer and the output.
        problem: reason why dropout cannot be inserted before the layer; "" if dropout can be inserted.
    """

    path: str
    kind: str
    shape: tuple[int, ...] = ()
    has_weights: bool = False
    makes_outputs: bool = False
    problem: str = ""

    def describe(self) -> str:
        """The place in one line: path, class and the shape of the input."""
        shape = f" on {list(self.shape)}" if self.shape else ""
        return f"{self.path}  {self.kind}{shape}{'  (classifier)' if self.makes_outputs else ''}"


@dataclass(frozen=True)
class _Call:
    """One call of a layer.

    Attributes:
        tensors: the tensors among the arguments of the call.
        mark: name of the operation that copies the input tensor; "" if the call does not have exactly one input tensor.
    """

    tensors: Sequence[Any]
    mark: str = ""


def find_places(
    network: Network, layers: Mapping[str, Any], input_shape: tuple[int, ...], origin: str
) -> tuple[Place, ...]:
    """All layers of a network as places, in the order of the model.

    Args:
        network: the network.
        layers: its layers by path.
        input_shape: shape of the network's input without the batch axis.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: a layer raises an error when it is called.
    """
    calls: dict[str, list[_Call]] = {path: [] for path in layers}
    with ExitStack() as stack:
        for path, layer in layers.items():
            if not family_of(layer):
                stack.enter_context(inputs_changed(layer, partial(_record, calls[path])))
        graph = trace_network(network, keep_identity, input_shape, origin)
    with_weights = {path for path, layer in layers.items() if _has_weights(layer)}
    marks = {call.mark: path for path, made in calls.items() for call in made if call.mark}
    needed = _reached(graph, marks, stop_at=())
    last = _reached(graph, marks, stop_at=with_weights) & with_weights
    return tuple(
        Place(
            path=path,
            kind=type(layer).__name__,
            shape=_shape_of(calls[path]),
            has_weights=path in with_weights,
            makes_outputs=path in last,
            problem=_problem_of(layer, calls[path], graph, is_needed=path in needed),
        )
        for path, layer in layers.items()
    )


def _record(calls: list[_Call], tensors: list[Any]) -> list[Any]:
    """Add a call to `calls`; a single input tensor is replaced by a copy, whose operation marks the call."""
    import tensorflow as tf

    if len(tensors) != 1:
        calls.append(_Call(tensors))
        return tensors
    copy = tf.identity(tensors[0])
    calls.append(_Call(tensors, copy.op.name))
    return [copy]


def _reached(graph: Any, marks: Mapping[str, str], stop_at: Collection[str]) -> set[str]:
    """Paths of the layers whose marks precede the outputs of a graph, up to the layers in `stop_at`."""
    before = operations_before_output(graph, lambda operation: marks.get(operation.name) in stop_at)
    return {marks[operation.name] for operation in before if marks.get(operation.name)}


def _has_weights(layer: Any) -> bool:
    """Whether a layer itself, not a layer inside it, multiplies its input by a weight with several axes."""
    own: Iterable[Any] = (*layer._trainable_variables, *layer._non_trainable_variables)
    return type(layer).__name__ not in _NO_LINEAR_MAPS and any(len(weight.shape) > 1 for weight in own)


def _shape_of(calls: Sequence[_Call]) -> tuple[int, ...]:
    """Shape of the input in the first call, without the batch axis; empty if unknown."""
    shapes = [call.tensors[0].shape for call in calls if len(call.tensors) == 1]
    if not shapes or shapes[0].rank is None or None in tuple(shapes[0])[1:]:
        return ()
    return tuple(shapes[0])[1:]


def _problem_of(layer: Any, calls: Sequence[_Call], graph: Any, *, is_needed: bool) -> str:
    """The reason why dropout cannot be inserted before a layer; "" if dropout can be inserted."""
    tensors = [tensor for call in calls for tensor in call.tensors]
    if family_of(layer):
        return "the layer draws noise itself"
    if not calls:
        return "the model does not call the layer"
    if any(tensor.graph is not graph for tensor in tensors):
        return "the layer is called in the steps of a loop, such as in a recurrent layer"
    if others := [len(call.tensors) for call in calls if len(call.tensors) != 1]:
        return f"the layer has {others[0]} inputs"
    if type(layer).__name__ in _NO_LINEAR_MAPS[:1] or not all(is_float_tensor(tensor) for tensor in tensors):
        return "the input of the layer consists of integers"
    if not _shape_of(calls):
        return "the shape of the layer's input is unknown"
    return "" if is_needed else "the output does not depend on the layer"
