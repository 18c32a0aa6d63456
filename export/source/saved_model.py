"""Rebuild Keras models from the SavedModel folders of TensorFlow 2.0 to 2.15; refuse other folders.

In: a folder that `model.save("folder")` of Keras 2 wrote. Out: the configuration of the layers, and a Keras model with
the saved weights. The functions in the folder are never run, because dropout layers cannot be identified in them. Code
in Lambda layers is run only with `unsafe`. `export.source.load` determines the classes of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export.errors import ModelRefused
from export.source.hidden import RANDOM_OPERATION
from export.source.keras_2.build import build_model
from export.source.keras_2.checkpoint import restore_weights
from export.source.keras_2.saved_objects import CHECKPOINT, GRAPH, METADATA, SavedObjects, read_saved_objects

WANTED = "a file written by model.save('NAME.keras'), a legacy .h5 file, or a folder written by Keras 2's model.save"
"""The supported kinds of model files, for messages."""

_BUILT_IN = ("Sequential", "Functional", "Model")
"""Classes of models that Keras rebuilds from their configuration."""

_POINTER = b"version https://git-lfs"
"""Start of a file that Git LFS writes in place of a large file."""


def read_folder_config(folder: Path) -> dict[str, Any]:
    """Class and configuration of the model in a SavedModel folder, as plain data in the format of Keras 2.

    Raises:
        ModelRefused: the folder is not a SavedModel, is damaged, or contains only functions.
    """
    saved = _read_model(folder)
    root = saved.described[0]
    whole = root.get("model_config")
    for one in (root, whole if isinstance(whole, dict) else {}):  # TensorFlow 2.0 and 2.1 may store only `model_config`
        config = one.get("config")
        if isinstance(config, dict) and "layers" in config:  # the shape is not stored if the first images determined it
            return {"class_name": one["class_name"], "config": {"build_input_shape": saved.input_shape, **config}}
    config = root.get("config")
    return {"class_name": root["class_name"], "config": config if isinstance(config, dict) else {}}


def rebuild(
    folder: Path, config: Mapping[str, Any], custom_objects: Mapping[str, Any], *, unsafe: bool
) -> tuple[Any, Callable[[], None]]:
    """The model in a folder with initial weights, and a function that assigns the saved weights.

    Args:
        folder: the folder.
        config: result of `read_folder_config`.
        custom_objects: classes and functions by name.
        unsafe: whether to run code in the configuration.

    Raises:
        ModelRefused: the model has a class of its own that is not in `custom_objects`, or cannot be built. The returned
            function raises this error if weights are missing, damaged, or differ from the weights of the layers.
    """
    saved = _read_model(folder)
    if config["class_name"] in _BUILT_IN:
        model = build_model(config, custom_objects, unsafe=unsafe).model
    else:
        model = _build_own_class(saved, config, custom_objects, unsafe=unsafe)

    def assign() -> None:
        _check_weights(folder)
        restore_weights(saved, model)

    return model, assign


def _build_own_class(
    saved: SavedObjects, config: Mapping[str, Any], custom_objects: Mapping[str, Any], *, unsafe: bool
) -> Any:
    """The model of a class in `custom_objects`, built by a call on an image of zeros if the input shape is known."""
    import keras

    name = str(config["class_name"]).rpartition(">")[2]
    kind = custom_objects.get(config["class_name"], custom_objects.get(name))
    if kind is None:
        raise ModelRefused(
            f"{saved.folder} is a SavedModel of the class {name}, and does not contain the code of this class.",
            wanted="the module of the class, because the folder contains only functions that were traced from its code",
            next_step=f"add --custom-objects 'MODULE:{name}'; MODULE is the module name or .py file of the class",
        )
    if "layers" in config["config"] and kind.call in (keras.Model.call, keras.Sequential.call):
        # The class changes the training only. Its configuration is that of a sequential or functional model.
        built_in = "Sequential" if issubclass(kind, keras.Sequential) else "Functional"
        return build_model({**config, "class_name": built_in}, custom_objects, unsafe=unsafe).model
    try:
        with keras.saving.custom_object_scope(dict(custom_objects)):
            model = kind.from_config(dict(config["config"]))
    except TypeError as error:
        raise ModelRefused(
            f"{saved.folder} does not contain the arguments of the class {name} ({error}).",
            wanted=f"a class that can be created from the saved arguments, {config['config']}",
            next_step=f"in the module of {name}, set the defaults of its other arguments to the values of the "
            "training, then export again",
        ) from error
    if saved.input_shape is not None and None not in saved.input_shape[1:]:
        model(keras.ops.zeros((1, *saved.input_shape[1:])))
    return model


def _read_model(folder: Path) -> SavedObjects:
    """The objects in a folder, of which the first is a Keras model with its description."""
    if not (folder / GRAPH).is_file():
        raise _refuse_other(folder)
    _refuse_pointers(folder / GRAPH, folder / METADATA)
    saved = read_saved_objects(folder)
    if 0 not in saved.described:
        raise _refuse_functions(saved)
    return saved


def _check_weights(folder: Path) -> None:
    """Check that all files of the weights exist: the index, and each part of the data."""
    prefix = folder / CHECKPOINT
    parts = [path.name.rpartition("-")[2] for path in prefix.parent.glob(f"{prefix.name}.data-*-of-*")]
    count = int(parts[0]) if parts and parts[0].isdigit() else 1
    endings = ["index", *(f"data-{number:05d}-of-{count:05d}" for number in range(count))]
    paths = [prefix.with_name(f"{prefix.name}.{ending}") for ending in endings]
    missing = [path.relative_to(folder).as_posix() for path in paths if not path.is_file()]
    if missing:
        raise ModelRefused(
            f"{folder} is a SavedModel without its weights; missing: {', '.join(missing)}.",
            wanted=f"the whole folder: {GRAPH}, and the folder {prefix.parent.name} with all its files",
            next_step="copy or download the whole folder again",
        )
    _refuse_pointers(*paths)


def _refuse_pointers(*paths: Path) -> None:
    for path in paths:
        if path.is_file() and _is_pointer(path):
            raise ModelRefused(
                f"{path} is a pointer of Git LFS, not the file itself.",
                wanted="the content of the file, which Git LFS stores outside the repository",
                next_step=f"download the file, then export again: cd '{path.parent}' && git lfs pull",
            )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _refuse_functions(saved: SavedObjects) -> ModelRefused:
    """`ModelRefused` for a SavedModel without the configuration of layers; the message states the content."""
    folder = saved.folder
    if saved.identifier.startswith("_tf_keras"):
        return ModelRefused(
            f"{folder} is a SavedModel of a Keras model without the configuration of its layers: there is no "
            f"{METADATA}, and {GRAPH} has no configuration either, as after tf.saved_model.save.",
            wanted=f"{METADATA}, which model.save of TensorFlow 2.5 to 2.15 wrote",
            next_step=f"copy {METADATA} too; if there is none, build the model with tf_keras (pip install tf_keras) "
            f"and load the weights, in Python: model.load_weights('{folder}/{CHECKPOINT}'); model.save('model.h5')",
        )
    if not saved.identifier:
        return ModelRefused(
            f"{folder} is a SavedModel in the format of TensorFlow 1, written by TensorFlow {saved.tensorflow}. It "
            "contains a graph of operations, but no layers.",
            wanted=WANTED,
            next_step="export the .h5 file of this model; if there is none, build the model with layers named as in "
            f"tf.train.list_variables('{folder}/{CHECKPOINT}') and assign these variables, in Python: "
            f"import tensorflow as tf; saved = tf.train.load_checkpoint('{folder}/{CHECKPOINT}'); "
            "[one.assign(saved.get_tensor(f'{layer.name}/{one.name}')) for layer in model.layers for one in "
            "layer.weights]; model.save('model.keras')",
        )
    drawing = sum(1 for operation in saved.operations if RANDOM_OPERATION.search(operation))
    found = (
        f"the functions have {drawing} random operations, but no layers and no rates"
        if drawing
        else "the functions were traced in inference mode, without dropout"
    )
    return ModelRefused(
        f"{folder} is a SavedModel that contains only traced functions, as after model.export of Keras 3 or "
        f"tf.saved_model.save; {found}.",
        wanted=WANTED,
        next_step="export the .keras or .h5 file of this model; if there is none, build the model and assign the "
        "variables of the folder, in Python: import tensorflow as tf; [one.assign(two) for one, two in "
        f"zip(model.variables, tf.saved_model.load('{folder}').variables, strict=True)]; model.save('model.keras')",
    )


def from_tensorflow_js(path: Path, config: Any) -> str:
    """The next step for a file `model.json` of TensorFlow.js; `config` is its text or its parsed content."""
    original = "export the .keras or .h5 file from which it was converted"
    if "graph-model" in str(config):
        return f"{original}; this model contains operations without layers"
    return (
        f"{original}; if there is none, convert it back: pip install tensorflowjs && tensorflowjs_converter "
        f"--input_format=tfjs_layers_model --output_format=keras '{path}' model.h5"
    )


def _refuse_other(folder: Path) -> ModelRefused:
    """`ModelRefused` for a folder without a `saved_model.pb`; the message states the content."""
    names = {path.name for path in folder.iterdir()}
    inner = sorted(path.parent for depth in (1, 2, 3) for path in folder.glob("*/" * depth + GRAPH))
    models = sorted(folder / name for name in names if name.endswith((".keras", ".h5", ".hdf5")))
    models = [path for path in models if not path.name.endswith(".weights.h5")]
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.index") if path.is_file())
    found, next_step = f"is a folder without a file {GRAPH}", "check the path of the model"
    if (folder.parent / GRAPH).is_file():
        found, next_step = f"is a part of the SavedModel folder {folder.parent}", f"export {folder.parent}"
    elif inner or models:
        kind = "SavedModel folder" if inner else "file"
        one = (inner or models)[0]
        found = f"is not a model, but it contains the {kind} {one}"
        found += f" and {len(inner or models) - 1} more" if len(inner or models) > 1 else ""
        next_step = f"export {one}"
    elif {"config.json", "model.weights.h5"} <= names:
        found = "contains the unpacked files of a .keras file"
        next_step = f"pack them: cd {folder} && python -m zipfile -c model.keras *.json *.h5; then export model.keras"
    elif prefixes:
        found = f"contains only weights, in a checkpoint of TensorFlow ({prefixes[0].name})"
        next_step = (
            "build the model with tf_keras (pip install tf_keras) and load the weights, in Python: "
            f"model.load_weights('{prefixes[0]}'); model.save('model.h5')"
        )
    elif "model.json" in names and '"weightsManifest"' in (text := (folder / "model.json").read_text(errors="replace")):
        found = "contains a model of TensorFlow.js"
        next_step = from_tensorflow_js(folder / "model.json", text)
    return ModelRefused(f"{folder} {found}.", wanted=WANTED, next_step=next_step)
