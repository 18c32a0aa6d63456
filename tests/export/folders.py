"""SavedModel folders of Keras 2, as the versions of TensorFlow from 2.0 to 2.15 wrote them.

`tf_keras` writes the folders of TensorFlow 2.15. The folders of older versions are made from these folders: with the
same objects and weights, and with the descriptions of the objects in the files and in the form of the older versions.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NOT_IN_2_0 = (
    "must_restore_from_config",
    "preserve_input_structure_in_config",
    "full_save_spec",
    "save_spec",
    "autocast",
)


def save_folder(model: Any, path: Path, *, traces: bool = False) -> Path:
    """Save a model of Keras 2 as a SavedModel folder; without the functions of each layer, it is much faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 is older than its TensorFlow
        model.save(path, save_format="tf", save_traces=traces)
    return path


def as_tensorflow_2_4(folder: Path) -> None:
    """Move the descriptions of the objects to `saved_model.pb`, where TensorFlow 2.0 to 2.4 stored them."""
    _rewrite(folder, lambda index, described: described)


def as_tensorflow_2_0(folder: Path) -> None:
    """Describe the objects as TensorFlow 2.0 did: other class names, fewer settings, the layers in `model_config`."""
    _rewrite(folder, _describe_as_2_0)


def _describe_as_2_0(index: int, described: dict[str, Any]) -> dict[str, Any]:
    described = _with_old_names(described)
    if index == 0:
        layers = {key: value for key, value in described["config"].items() if key != "build_input_shape"}
        described["model_config"] = {"class_name": described["class_name"], "config": layers}
        described["config"] = {"name": described["name"]}
        described["is_graph_network"] = described["class_name"] != "Sequential"
    return {key: value for key, value in described.items() if key not in _NOT_IN_2_0}


def _with_old_names(value: Any) -> Any:
    """A description with the class names of TensorFlow 2.0, and without the numbers of shared objects."""
    if isinstance(value, list):
        return [_with_old_names(one) for one in value]
    if not isinstance(value, dict):
        return "Model" if value == "Functional" else value
    return {key: _with_old_names(one) for key, one in value.items() if key not in ("shared_object_id", "groups")}


def _rewrite(folder: Path, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    """Store the descriptions in `saved_model.pb`, changed by a function of the index and description of each object."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata

    path, metadata = folder / "saved_model.pb", folder / "keras_metadata.pb"
    saved = SavedModel.FromString(path.read_bytes())
    objects = saved.meta_graphs[0].object_graph_def.nodes
    if metadata.is_file():
        for node in SavedMetadata.FromString(metadata.read_bytes()).nodes:
            objects[node.node_id].user_object.metadata = node.metadata
        metadata.unlink()
    for index, one in enumerate(objects):
        if one.user_object.metadata:
            one.user_object.metadata = json.dumps(change(index, json.loads(one.user_object.metadata)))
    path.write_bytes(saved.SerializeToString())
