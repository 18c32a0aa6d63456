"""Read the objects in a SavedModel folder.

In: a folder. Out: `SavedObjects`. A SavedModel contains a graph of objects (`saved_model.pb`), and Keras 2 adds a
description of each Keras object: in the graph of objects for TensorFlow 2.0 to 2.4, in `keras_metadata.pb` for
TensorFlow 2.5 to 2.15. The functions in the folder are never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from export.errors import ModelRefused

GRAPH = "saved_model.pb"
METADATA = "keras_metadata.pb"
CHECKPOINT = "variables/variables"


@dataclass(frozen=True)
class SavedObjects:
    """The objects in a SavedModel; an object is denoted by its index, and index 0 is the saved object itself.

    Attributes:
        folder: the folder.
        identifier: kind of the saved object, such as `_tf_keras_network`; "" if the SavedModel contains no objects.
        described: Keras 2's description of each Keras object: `class_name`, `name`, `config` and more, as plain data.
        children: for each object, the objects that it refers to, by the name of the reference.
        lists: the objects that are lists or dictionaries.
        variables: the objects that are variables.
        input_shape: shape of the input with the batch axis; None if it is unknown or there are several inputs.
        operations: types of the operations in the functions.
        tensorflow: version of TensorFlow that wrote the folder.
    """

    folder: Path
    identifier: str
    described: Mapping[int, Mapping[str, Any]]
    children: Sequence[Mapping[str, int]]
    lists: frozenset[int]
    variables: frozenset[int]
    input_shape: tuple[int | None, ...] | None
    operations: Sequence[str]
    tensorflow: str


def read_saved_objects(folder: Path) -> SavedObjects:
    """The objects in a SavedModel folder; the descriptions are empty if another program than Keras 2 wrote the folder.

    Raises:
        ModelRefused: a file is damaged.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graphs = _parse(SavedModel, folder / GRAPH).meta_graphs
    if not graphs:
        raise unreadable(folder / GRAPH, "it contains no graph")
    nodes = graphs[0].object_graph_def.nodes
    texts = {index: node.user_object.metadata for index, node in enumerate(nodes)}
    source = folder / GRAPH
    if (folder / METADATA).is_file():
        source = folder / METADATA
        texts = {node.node_id: node.metadata for node in _parse(_saved_metadata(), source).nodes}
    try:
        described = {index: json.loads(text, object_hook=_decode) for index, text in texts.items() if text}
    except (ValueError, KeyError, RecursionError) as error:
        raise unreadable(source, str(error)) from error
    return SavedObjects(
        folder=folder,
        identifier=nodes[0].user_object.identifier if nodes else "",
        described={
            index: one
            for index, one in described.items()
            if isinstance(one, dict) and nodes[index].user_object.identifier != "_tf_keras_metric"
        },
        children=[{child.local_name: child.node_id for child in node.children} for node in nodes],
        lists=frozenset(i for i, node in enumerate(nodes) if node.user_object.identifier.startswith("trackable_")),
        variables=frozenset(i for i, node in enumerate(nodes) if node.WhichOneof("kind") == "variable"),
        input_shape=_input_shape(graphs[0].signature_def, described.get(0)),
        operations=[node.op for function in graphs[0].graph_def.library.function for node in function.node_def],
        tensorflow=graphs[0].meta_info_def.tensorflow_version,
    )


def _input_shape(signatures: Any, described: Any) -> tuple[int | None, ...] | None:
    """Shape of the single input of the serving function, or of the images that the saved object was built with."""
    inputs = list(signatures["serving_default"].inputs.values()) if "serving_default" in signatures else []
    if len(inputs) == 1 and not inputs[0].tensor_shape.unknown_rank:
        return tuple(None if axis.size < 0 else axis.size for axis in inputs[0].tensor_shape.dim)
    shape = described.get("build_input_shape") if isinstance(described, dict) else None
    return tuple(shape) if isinstance(shape, (list, tuple)) and all(isinstance(one, int) for one in shape[1:]) else None


def _decode(described: dict[str, Any]) -> Any:
    """The items of tuples and shapes, which Keras 2 encodes as objects; other objects are unchanged."""
    return described["items"] if described.get("class_name") in ("__tuple__", "TensorShape") else described


def _parse(kind: Any, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(path.read_bytes())
    except DecodeError as error:
        raise unreadable(path, str(error)) from error


@cache
def _saved_metadata() -> Any:
    """The protobuf message `SavedMetadata` of Keras 2, which Keras 3 lacks, with the fields that this module reads."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="oodscreen/saved_metadata.proto", package="oodscreen")
    file.syntax = "proto3"
    node = file.message_type.add(name="SavedObject")
    for number, name, kind in ((2, "node_id", kinds.TYPE_INT32), (5, "metadata", kinds.TYPE_STRING)):
        node.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
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


def unreadable(path: Path, reason: str) -> ModelRefused:
    """`ModelRefused` for a damaged or incomplete file in a SavedModel folder."""
    return ModelRefused(
        f"{path} cannot be read: {reason or 'the content is damaged'}.",
        wanted="the complete folder that model.save of Keras 2 wrote",
        next_step="copy or download the whole folder again",
    )
