"""Assign the weights in the checkpoint of a SavedModel folder to a Keras 3 model.

In: the objects in the folder, and the model that was built from its configuration. Out: the model with the saved
weights. A variable belongs to the weight that has the same path, which consists of the names of layers in models and of
attributes in layers. The paths are the same in all versions of Keras 2; the names of the variables are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from export.errors import ModelRefused
from export.source.keras_2.build import clean_name
from export.source.keras_2.saved_objects import CHECKPOINT, SavedObjects, unreadable

_LAYER_OF_MODEL = re.compile(r"layer(_with_weights)?-\d+")
"""Names of the references from a sequential or functional model to its layers."""

_RENAMED = {"depthwise_kernel": "kernel"}
"""Names of weights in Keras 3, by their names in Keras 2."""

_SUMMARIES = {"variables", "trainable_variables", "regularization_losses", "keras_api"}
"""Names of the references from a layer to lists, in which variables have no names."""


def restore_weights(saved: SavedObjects, model: Any) -> None:
    """Assign the saved variables to the weights of a model.

    Args:
        saved: the objects in the folder.
        model: the model, built from the configuration in the folder.

    Raises:
        ModelRefused: a weight has no saved variable of its path and shape, a saved variable has no weight, or the
            checkpoint is damaged.
    """
    import tensorflow as tf

    try:
        checkpoint = _Checkpoint(saved, tf.train.load_checkpoint(str(saved.folder / CHECKPOINT)))
        checkpoint.match(model, index=0, node=0, path="")
        checkpoint.assign(model)
    except (tf.errors.OpError, RuntimeError, ValueError, LookupError) as error:
        raise unreadable(saved.folder / CHECKPOINT, str(error).partition("\n")[0]) from error


@dataclass(frozen=True)
class _Part:
    """A layer or a variable in a saved layer.

    Attributes:
        names: names of the references to the part, such as `kernel`, or `blocks/0` for an element of a list.
        index: index of the object in `SavedObjects`.
        node: index of the object in the graph of the checkpoint.
    """

    names: tuple[str, ...]
    index: int
    node: int


class _Checkpoint:
    """The checkpoint of a SavedModel folder: its graph of objects, and its variables, each matched to a weight."""

    def __init__(self, saved: SavedObjects, reader: Any) -> None:
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

        graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        self._saved, self._reader = saved, reader
        self._children = [{child.local_name: child.node_id for child in node.children} for node in graph.nodes]
        self._keys = ["".join(one.checkpoint_key for one in node.attributes) for node in graph.nodes]
        self._shapes = {key: tuple(shape) for key, shape in reader.get_variable_to_shape_map().items()}
        self._matched: dict[int, str] = {}  # key of the variable, by id of the weight
        self._unmatched: dict[str, tuple[int, ...]] = {}  # shape of the variable, by path
        self._layers: dict[int, Any] = {}  # the layers with a saved layer, by id

    def match(self, layer: Any, *, index: int, node: int, path: str) -> None:
        """Match the variables of a saved layer, and of the layers in it, to the weights of a layer."""
        if id(layer) in self._layers:
            return  # a layer that is used in several places
        self._layers[id(layer)] = layer
        variables = []
        for part in self._parts(index, node):
            if part.index in self._saved.variables:
                variables.append(part)
                continue
            inner, inner_path = self._find_layer(layer, part), f"{path}{self._saved.described[part.index].get('name')}/"
            if inner is not None:
                self.match(inner, index=part.index, node=part.node, path=inner_path)
            else:
                self._add_unmatched(part.index, part.node, inner_path)
        self._match_own(layer, variables, path)

    def assign(self, model: Any) -> None:
        """Assign the matched variables to all weights of a model."""
        missing = {weight.path: tuple(weight.shape) for weight in model.weights if id(weight) not in self._matched}
        if missing or self._unmatched:
            raise ModelRefused(
                f"The weights in {self._saved.folder} do not fit the layers. Weights that only the folder has: "
                f"{shorten(str(self._unmatched), 500)}. Weights that only the layers in the installed version of Keras "
                f"have: {shorten(str(missing), 500)}.",
                wanted="the same paths and shapes of weights in the folder and in the layers, so that each weight can "
                "be matched",
                next_step="copy the whole folder of a single model.save again; if --custom-objects gives the class of "
                "these layers, change the class so that it creates the saved weights",
            )
        for weight in model.weights:
            weight.assign(self._reader.get_tensor(self._matched[id(weight)]))
        for layer in self._layers.values():
            if hasattr(layer, "finalize_state"):  # Normalization computes with values derived from its weights
                layer.finalize_state()

    def _parts(self, index: int, node: int, prefix: str = "") -> Iterator[_Part]:
        """The layers and variables that a saved layer refers to, directly or by a list."""
        names: dict[int, list[str]] = {}
        for name, child in self._saved.children[index].items():
            if name in _SUMMARIES or name not in self._children[node]:
                continue
            if child in self._saved.lists:
                yield from self._parts(child, self._children[node][name], f"{prefix}{name}/")
            elif child in self._saved.variables or child in self._saved.described:
                names.setdefault(child, []).append(name)
        for child, own in names.items():
            yield _Part(tuple(f"{prefix}{name}" for name in own), child, self._children[node][own[0]])

    def _find_layer(self, layer: Any, part: _Part) -> Any | None:
        """The layer in `layer` that corresponds to a saved layer; None if no layer does."""
        import keras

        if any(_LAYER_OF_MODEL.fullmatch(name) for name in part.names):
            name = clean_name(str(self._saved.described[part.index].get("name")))
            return next((one for one in getattr(layer, "layers", ()) if one.name == name), None)
        found = (_attribute(layer, name) for name in part.names)
        return next((one for one in found if isinstance(one, keras.Layer)), None)

    def _match_own(self, layer: Any, variables: list[_Part], path: str) -> None:
        """Match variables to the weights that belong to no inner layer: by attribute or by name, and by shape."""
        inner = layer._flatten_layers(include_self=False, recursive=False)
        others = {id(weight) for one in inner for weight in one.weights}
        weights = {id(weight): weight for weight in layer.weights if id(weight) not in others}
        tests: tuple[Callable[[Any, _Part], bool], ...] = (
            lambda weight, part: any(_attribute(layer, name) is weight for name in part.names),
            lambda weight, part: weight.name in part.names,
            lambda weight, part: weight.name in [_RENAMED.get(name) for name in part.names],
        )
        for fits in tests:
            for part in list(variables):
                same = [one for one in weights.values() if fits(one, part)]
                if len(same) == 1 and tuple(same[0].shape) == self._shapes[self._keys[part.node]]:
                    self._matched[id(same[0])] = self._keys[part.node]
                    variables.remove(part)
                    del weights[id(same[0])]
        for part in variables:
            self._unmatched[f"{path}{part.names[0]}"] = self._shapes[self._keys[part.node]]

    def _add_unmatched(self, index: int, node: int, path: str) -> None:
        """Add all variables of a saved layer, and of the layers in it, to the unmatched variables."""
        for part in self._parts(index, node):
            if part.index in self._saved.variables:
                self._unmatched[f"{path}{part.names[0]}"] = self._shapes[self._keys[part.node]]
            else:
                self._add_unmatched(part.index, part.node, f"{path}{part.names[0]}/")


def _attribute(owner: Any, path: str) -> Any | None:
    """The object at a path of attributes, list indices and dictionary keys; None if the path leads to no object."""
    for name in path.split("/"):
        if isinstance(owner, Mapping):
            owner = owner.get(name)
        elif isinstance(owner, Sequence):
            owner = owner[int(name)] if name.isdigit() and int(name) < len(owner) else None
        else:
            owner = getattr(owner, name, None)
    return owner
