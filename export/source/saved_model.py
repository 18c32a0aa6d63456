"""Rebuild Keras models from SavedModel folders of Keras 2; refuse other SavedModel folders.

In: a folder. Out: the configuration of the layers, and a Keras model with the saved weights. `model.save("folder")` of
Keras 2 writes traced functions, the configuration of the layers (`keras_metadata.pb`) and a checkpoint of the weights.
Only the configuration and the checkpoint are read. The functions are never run, because dropout layers cannot be
identified in them. Code in Lambda layers is run only with `unsafe`. `export.source.load` determines the classes of the
layers.
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
from export.source.keras_2.build import build_model

_METADATA = "keras_metadata.pb"
_GRAPH = "saved_model.pb"
_CHECKPOINT = "variables/variables"
_SAVE_AGAIN = "save the Keras model again where it was trained: model.save('NAME.keras')"

WANTED = "a file written by model.save('NAME.keras'), a legacy .h5 file, or a folder written by Keras 2's model.save"
"""The supported kinds of model files, for messages."""


def read_folder_config(folder: Path) -> dict[str, Any]:
    """Configuration of the layers of a SavedModel, as plain data in the format of Keras 2.

    Raises:
        ModelRefused: the folder is not a SavedModel, contains only functions, or contains a subclassed model.
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
            f"{folder} is a SavedModel of the class {root.get('class_name', 'unknown')}, without the class's code.",
            wanted="a sequential or functional model; a subclassed model can be rebuilt only with its code",
            next_step=f"{_SAVE_AGAIN}; then export this file with --custom-objects MODULE:CLASS",
        )
    return {"class_name": root["class_name"], "config": config}


def rebuild(folder: Path, config: Mapping[str, Any], custom_objects: Mapping[str, Any], *, unsafe: bool) -> Any:
    """The model in a folder, with the saved weights, which are matched by layer, name and shape.

    Raises:
        ModelRefused: the names or shapes of a layer's saved weights differ from the weights of this layer in the
            installed version of Keras.
    """
    model = build_model(config, custom_objects, unsafe=unsafe).model
    _Checkpoint(folder).restore(model)
    return model


class _Checkpoint:
    """The checkpoint in a folder: a graph of objects whose edges are named by attributes."""

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
        if len(old) == len(new) == 1:  # one renamed weight, such as depthwise_kernel, which Keras 3 names kernel
            saved[new.pop()] = saved.pop(old.pop())
        values = {name: self._reader.get_tensor(one.checkpoint_key) for name, one in saved.items()}
        found_shapes = {name: tuple(value.shape) for name, value in values.items()}
        wanted_shapes = {name: tuple(weight.shape) for name, weight in wanted.items()}
        if found_shapes != wanted_shapes or not len(nodes) == len(wanted) == len(layer.weights):
            raise ModelRefused(
                f"{self._folder} has the weights {found_shapes} for the layer {layer.name}; in the "
                f"installed version of Keras, this layer has the weights {wanted_shapes}.",
                wanted="weights with equal names and shapes, so that each weight can be matched",
                next_step=_SAVE_AGAIN,
            )
        for name, weight in wanted.items():
            weight.assign(values[name])
        if hasattr(
            layer, "finalize_state"
        ):  # Normalization computes its outputs from values that this method derives from the weights
            layer.finalize_state()


def _within(layer: str, path: str) -> str:
    """The part of a variable's path after its layer, without the numbers that Keras appends to names in use."""
    inner = f"/{path}".rpartition(f"/{layer}/")[2]
    return "/".join(re.sub(r"_\d+$", "", part) for part in inner.split("/"))


def _refuse_functions(folder: Path) -> ModelRefused:
    """`ModelRefused` for a folder that contains only traced functions; the message states why."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        graphs = [one.graph_def for one in SavedModel.FromString((folder / _GRAPH).read_bytes()).meta_graphs]
    except DecodeError:
        graphs = []
    nodes = [node for graph in graphs for function in graph.library.function for node in function.node_def]
    drawing = sum(1 for node in nodes if RANDOM_OPERATION.search(node.op))
    found = (
        f"the functions have {drawing} random operations, but no layers and no rates"
        if drawing
        else "the functions were traced in inference mode, without dropout"
    )
    return ModelRefused(
        f"{folder} is a SavedModel that contains only traced functions, as after model.export of Keras 3; {found}.",
        wanted=WANTED,
        next_step=_SAVE_AGAIN,
    )


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """Keras 2's metadata of each object, by the path of the object; the path of the model is `root`."""
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
    """The protobuf message `SavedMetadata` of Keras 2, with the fields that this module reads; not in Keras 3."""
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
