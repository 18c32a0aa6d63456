"""Load a trained model from a file, by default without running code from the file.

In: a `.keras` file, a legacy `.h5` file or a SavedModel folder of Keras 2. Out: a `KerasSource`. The configuration is
checked before Keras loads the file. Code in the file (Lambda layers) is refused unless `unsafe` is set. Classes that
are not part of Keras are refused unless the user gives them, or unless their name and settings denote a dropout layer.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from export.errors import ModelRefused
from export.source.choice import SiteChoice
from export.source.describe import KerasSource, describe_model, import_keras
from export.source.saved_model import WANTED, read_folder_config, rebuild
from export.source.stand_in import layers_of_keras_2, make_stand_in

_WEIGHTS_ONLY = ".weights.h5"


def load_model(
    path: str | Path,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
    choice: SiteChoice | None = None,
    output: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> KerasSource:
    """The description of the model in a file, loaded without its optimizer, and in Keras' safe mode unless `unsafe`.

    Args:
        path: path of the file or folder.
        custom_objects: classes and functions, by the name in the file, that are not part of Keras.
        unsafe: whether to run code in the file; only for trusted files.
        choice: selection of sites and rates.
        output: name of the output, for a model with several outputs.
        image_shape: shape of the images; None if the input of the model determines it.

    Raises:
        ModelRefused: the file is missing or damaged, it contains code or unknown classes, or `describe_model` refuses
            the model.
    """
    path = Path(path)
    if not path.exists():
        raise ModelRefused(f"There is no model file {path}.", wanted=WANTED, next_step="check the path of the model")
    if path.name.endswith(_WEIGHTS_ONLY):
        raise _weights_only(path)
    if path.is_file() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelRefused(
            f"{path} does not have the extension of a Keras model (it has {path.suffix or 'no extension'}).",
            wanted=WANTED,
            next_step="load the model in Keras, and save it by model.save('NAME.keras')",
        )
    keras = import_keras()
    given = dict(custom_objects or {})
    config = _read_config(path)
    if not unsafe:
        _refuse_code(config, path)
    stand_ins = _stand_ins(config, given, path)
    try:
        objects = {**layers_of_keras_2(_objects(config)), **stand_ins, **given}
        if path.is_dir():
            model = rebuild(path, config, objects, unsafe=unsafe)
        else:
            model = keras.saving.load_model(path, custom_objects=objects, compile=False, safe_mode=not unsafe)
    except ModelRefused:
        raise
    except Exception as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelRefused(
            f"Keras could not load {path}: {shorten(first_line, 300)}",
            wanted="a model whose layers are part of the installed Keras or are given by --custom-objects",
            next_step="load the model with the version of Keras that saved it and save it as .keras, or add "
            "--custom-objects MODULE:CLASS",
        ) from error
    notices = [
        f"the file does not contain the code of the class {name}; because of the name and settings of the class, its "
        f"layers are loaded as {stand_in.__base__.__name__} layers that are always active"
        for name, stand_in in stand_ins.items()
    ]
    return describe_model(
        model,
        origin=str(path),
        digest=_digest(path),
        choice=choice,
        output=output,
        image_shape=image_shape,
        notices=notices,
    )


def _read_config(path: Path) -> Any:
    """The configuration of the layers as plain data. No code in the file is run."""
    if path.is_dir():
        return read_folder_config(path)
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelRefused(
            f"Keras could not load {path}: the content is not that of a {path.suffix} file ({error}).",
            wanted=WANTED,
            next_step="check that the file was copied completely, or save the model again",
        ) from error
    if text is None:
        raise _weights_only(path)
    return json.loads(text)


def _refuse_code(config: Any, path: Path) -> None:
    lambdas = [one for one in _objects(config) if one.get("class_name") in ("Lambda", "__lambda__")]
    if lambdas:
        names = ", ".join(_object_name(one) for one in lambdas)
        raise ModelRefused(
            f"{path} contains code that loading would run: {names}.",
            wanted="a model without Lambda layers, or a trusted file",
            next_step="replace the Lambda layer by keras.ops or a layer class; if you trust the file, add --unsafe",
        )


def _stand_ins(config: Any, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Replacement classes, by name, for unknown classes in the file whose name and settings denote a dropout layer.

    Raises:
        ModelRefused: the file contains other classes that are neither part of Keras nor in `given`.
    """
    unknown: dict[str, dict[str, Any]] = {}
    for one in _objects(config):
        registered = one.get("registered_name") or one["class_name"]
        if not _is_known(one, registered, given):
            unknown.setdefault(registered, one)
    made = {name: make_stand_in(one) for name, one in unknown.items()}
    missing = sorted(name for name, stand_in in made.items() if stand_in is None)
    if missing:
        raise ModelRefused(
            f"{path} uses classes that are not part of Keras: {', '.join(missing)}.",
            wanted="the module of each class, because the model file does not contain its code",
            next_step=f"add --custom-objects 'MODULE:{missing[0].split('>')[-1]}'; MODULE is a module name or .py file",
        )
    return {name: stand_in for name, stand_in in made.items() if stand_in is not None}


def _is_known(one: Mapping[str, Any], registered: str, given: Mapping[str, Any]) -> bool:
    """Whether the class of a serialized object is given, registered, or part of Keras."""
    import keras

    name = str(one["class_name"])
    if name in given or registered in given or keras.saving.get_registered_object(registered) is not None:
        return True
    if "module" in one:  # Keras 3
        module = one["module"] or ""
        return module == "builtins" or module == "keras" or module.startswith("keras.")
    return hasattr(keras.layers, name) or not isinstance(one.get("config"), dict) or "rate" not in one["config"]


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All serialized objects in a configuration; an outer object precedes its inner ones."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        parts: Iterable[Any] = config.values()
    else:
        parts = config if isinstance(config, list) else ()
    for part in parts:
        yield from _objects(part)


def _object_name(one: Mapping[str, Any]) -> str:
    config = one.get("config")
    return str(config.get("name", one["class_name"])) if isinstance(config, dict) else str(one["class_name"])


def _weights_only(path: Path) -> ModelRefused:
    return ModelRefused(
        f"{path} contains only weights, without the layers of the model.",
        wanted=WANTED,
        next_step="build the model, load these weights into it, and save it by model.save('NAME.keras')",
    )


def _digest(path: Path) -> str:
    """SHA-256 of a file; for a folder, SHA-256 of the names and digests of its files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(one for one in path.rglob("*") if one.is_file())
    lines = "".join(f"{_digest(one)}  {one.relative_to(path).as_posix()}\n" for one in files)
    return hashlib.sha256(lines.encode()).hexdigest()
