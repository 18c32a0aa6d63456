"""Rebuild Keras models from SavedModel folders of Keras 2; refuse other SavedModel folders.

In: a folder. Out: the configuration of its layers, and a Keras model with its weights. `model.save("folder")` of Keras
2 writes traced functions, the configuration of the layers (`keras_metadata.pb`) and a checkpoint of the weights. Only
the configuration and the checkpoint are read. The functions are never run, because dropout layers cannot be identified
in them. The folder is read as data only; its classes are resolved as for any other model file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from export.errors import ModelRefused
from export.source.hidden import RANDOM_OPERATION

_METADATA = "keras_metadata.pb"
_GRAPH = "saved_model.pb"
_CHECKPOINT = "variables/variables"
_SAVE_AGAIN = "save the Keras model again where it was trained: model.save('NAME.keras')"

WANTED = "a file written by model.save('NAME.keras'), a legacy .h5 file, or a folder written by Keras 2's model.save"
"""The supported kinds of model files, for messages."""


def read_folder_config(folder: Path) -> dict[str, Any]:
    """Configuration of the layers of a SavedModel, as plain data in the format of Keras 2.

    Raises:
        ModelRefused: the folder is not a SavedModel, contains only functions, or is of a subclassed model.
    """
    if not (folder / _GRAPH).is_file():
        raise ModelRefused(
            f"{folder} is a folder without a file {_GRAPH}.", wanted=WANTED, next_step="check the path of the model"
        )
    if not (folder / _METADATA).is_file():
        raise _refuse_functions(folder)
    root = _metadata(folder).get("root", {})
    config = root.get("config") or {}
    if not root.get("is_graph_network") or "layers" not in config:
        raise ModelRefused(
            f"{folder} is a SavedModel of the class {root.get('class_name', 'unknown')}, without its code.",
            wanted="a sequential or functional model; a subclassed model can be rebuilt only with its code",
            next_step=f"{_SAVE_AGAIN}, and give its class by --custom-objects",
        )
    return {"class_name": root["class_name"], "config": config}


def rebuild(folder: Path, config: Mapping[str, Any], custom_objects: Mapping[str, Any], *, unsafe: bool) -> Any:
    """The model of a folder, with its weights matched by layer, name and shape.

    Raises:
        ModelRefused: the saved weights of a layer are not the weights that it has in this version of Keras.
    """
    from keras.src.legacy.saving import json_utils, saving_options, saving_utils
    from keras.src.saving.serialization_lib import SafeModeScope

    with saving_options.keras_option_scope(use_legacy_config=True), SafeModeScope(not unsafe):
        model = saving_utils.model_from_config(json_utils.decode(json.dumps(config)), custom_objects=custom_objects)
    _Checkpoint(folder).restore(model)
    return model


class _Checkpoint:
    """The checkpoint of a folder: an object graph whose edges are attribute names."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

        self._folder = folder
        self._reader = tf.train.load_checkpoint(str(folder / _CHECKPOINT))
        graph = TrackableObjectGraph.FromString(self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        self._variables = [node.attributes for node in graph.nodes]
        self._children = [{child.local_name: child.node_id for child in node.children} for node in graph.nodes]
        described = (("root." + step, node) for step, node in self._children[0].items())
        metadata = _metadata(folder)
        self._nodes = {metadata[path]["name"]: node for path, node in described if "name" in metadata.get(path, ())}

    def restore(self, model: Any) -> None:
        """Assign the saved weights to all layers of a model."""
        for layer in model.layers:
            self._restore_layer(layer, self._nodes.get(layer.name))

    def _restore_layer(self, layer: Any, node: int | None) -> None:
        listed = None if node is None else self._children[node].get("variables")
        nodes = [] if listed is None else self._children[listed].values()
        saved = {_within(layer.name, one.full_name): one for node in nodes for one in self._variables[node]}
        wanted = {_within(layer.name, weight.path): weight for weight in layer.weights}
        old, new = saved.keys() - wanted.keys(), wanted.keys() - saved.keys()
        if len(old) == len(new) == 1:  # one renamed weight: depthwise_kernel is kernel in Keras 3
            saved[new.pop()] = saved.pop(old.pop())
        values = {name: self._reader.get_tensor(one.checkpoint_key) for name, one in saved.items()}
        found_shapes = {name: tuple(value.shape) for name, value in values.items()}
        wanted_shapes = {name: tuple(weight.shape) for name, weight in wanted.items()}
        if found_shapes != wanted_shapes or not len(nodes) == len(wanted) == len(layer.weights):
            raise ModelRefused(
                f"{self._folder} has the weights {found_shapes} for the layer {layer.name}, which has the weights "
                f"{wanted_shapes} in this version of Keras.",
                wanted="weights with equal names and shapes, so that each weight can be matched",
                next_step=_SAVE_AGAIN,
            )
        for name, weight in wanted.items():
            weight.assign(values[name])
        if hasattr(layer, "finalize_state"):  # Normalization computes with values derived from its weights
            layer.finalize_state()


def _within(layer: str, path: str) -> str:
    """The part of a variable's path after its layer, without the numbers that Keras appends to names in use."""
    inner = f"/{path}".rpartition(f"/{layer}/")[2]
    return "/".join(re.sub(r"_\d+$", "", part) for part in inner.split("/"))


def _refuse_functions(folder: Path) -> ModelRefused:
    """The refusal of a folder that contains only traced functions, with the reason that they cannot be exported."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        graphs = [one.graph_def for one in SavedModel.FromString((folder / _GRAPH).read_bytes()).meta_graphs]
    except DecodeError:
        graphs = []
    nodes = [node for graph in graphs for function in graph.library.function for node in function.node_def]
    drawing = sum(1 for node in nodes if RANDOM_OPERATION.search(node.op))
    found = (
        f"whose {drawing} random operations have no layer and no rate"
        if drawing
        else "traced in inference mode, without dropout"
    )
    return ModelRefused(
        f"{folder} is a SavedModel with functions only, as Keras 3's model.export writes it, {found}.",
        wanted=WANTED,
        next_step=_SAVE_AGAIN,
    )


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """Keras 2's metadata of each object, by its path from the model, which is `root`."""
    from google.protobuf.message import DecodeError

    try:
        nodes = _saved_metadata().FromString((folder / _METADATA).read_bytes()).nodes
        return {node.node_path: json.loads(node.metadata) for node in nodes}
    except (DecodeError, ValueError) as error:
        raise ModelRefused(
            f"{folder} has a {_METADATA} that cannot be read ({type(error).__name__}).",
            wanted=WANTED,
            next_step="check that the folder was copied completely, or save the model again",
        ) from error


@cache
def _saved_metadata() -> Any:
    """The protobuf message `SavedMetadata` of Keras 2, with the fields read here; Keras 3 does not contain it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="oodscreen/saved_metadata.proto", package="oodscreen")
    file.syntax = "proto3"
    node = file.message_type.add(name="SavedObject")
    for number, name in ((3, "node_path"), (5, "metadata")):
        node.field.add(name=name, number=number, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    whole = file.message_type.add(name="SavedMetadata")
    whole.field.add(
        name="nodes",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".oodscreen.SavedObject",
        label=kinds.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oodscreen.SavedMetadata"))
