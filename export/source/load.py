"""Load a trained model from a file without running code that it brings along.

In: a `.keras` file, a legacy `.h5` file or a SavedModel folder of Keras 2. Out: a `KerasSource`.
What a file names is looked at before Keras is given it: code in a file (Lambda layers) and classes
that are not Keras' own are refused until they are allowed by name.
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
) -> KerasSource:
    """Load a model in Keras' safe mode, without its optimizer.

    Args:
        path: of the file or folder.
        custom_objects: classes and functions of the user's own that the file names.
        unsafe: also run code that is in the file itself; for files that are trusted.
        choice: which sites are kept.
        output: name of the output, for a model with several.

    Raises:
        ModelRefused: no such model, unknown or unsafe classes, or a model that `describe_model` refuses.
    """
    path = Path(path)
    if not path.exists():
        raise ModelRefused(f"There is no model file {path}.", wanted=WANTED, next_step="check the path")
    if path.name.endswith(_WEIGHTS_ONLY):
        raise _weights_only(path)
    if path.is_file() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelRefused(
            f"{path} is not named like a Keras model (its ending is {path.suffix or 'empty'!r}).",
            wanted=WANTED,
            next_step="load the model in Keras and save it with the ending .keras",
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
            wanted="a model of this Keras version's own layers, or of classes named by --custom-objects",
            next_step="load it where it was trained and save it anew; classes: --custom-objects module:Class",
        ) from error
    notices = [
        f"the class {name} is not in the file; by its name and settings it is a {stand_in.__base__.__name__} "
        "that is always on, and is taken for one"
        for name, stand_in in stand_ins.items()
    ]
    return describe_model(model, origin=str(path), digest=_digest(path), choice=choice, output=output, notices=notices)


def _read_config(path: Path) -> Any:
    """What the file says of its layers, as plain data; nothing of it is run."""
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
            f"Keras could not load {path}: it is no {path.suffix} file of a model ({error}).",
            wanted=WANTED,
            next_step="check that the file was copied whole; save the model again",
        ) from error
    if text is None:
        raise _weights_only(path)
    return json.loads(text)


def _refuse_code(config: Any, path: Path) -> None:
    found = [one for one in _objects(config) if one.get("class_name") in ("Lambda", "__lambda__")]
    if found:
        names = ", ".join(_own_name(one) for one in found)
        raise ModelRefused(
            f"{path} has code in it that loading would run: {names}.",
            wanted="a model without Lambda layers, or a file that you trust",
            next_step="if you made this file yourself, add --unsafe; better, use keras.ops or a layer class instead",
        )


def _stand_ins(config: Any, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Classes for those that the file names but does not hold, where it is plain what they are.

    Raises:
        ModelRefused: the file names other classes that nobody knows.
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
            f"{path} has classes that are not Keras' own: {', '.join(missing)}.",
            wanted="to be told where they are; only you can say which code is yours",
            next_step=f"--custom-objects 'module:{missing[0].split('>')[-1]}', with the module or .py file that has it",
        )
    return {name: stand_in for name, stand_in in made.items() if stand_in is not None}


def _is_known(one: Mapping[str, Any], registered: str, given: Mapping[str, Any]) -> bool:
    import keras

    name = str(one["class_name"])
    if name in given or registered in given or keras.saving.get_registered_object(registered) is not None:
        return True
    if "module" in one:  # Keras 3
        module = one["module"] or ""
        return module == "builtins" or module == "keras" or module.startswith("keras.")
    return hasattr(keras.layers, name) or not isinstance(one.get("config"), dict) or "rate" not in one["config"]


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a configuration, outer ones first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        parts: Iterable[Any] = config.values()
    else:
        parts = config if isinstance(config, list) else ()
    for part in parts:
        yield from _objects(part)


def _own_name(one: Mapping[str, Any]) -> str:
    config = one.get("config")
    return str(config.get("name", one["class_name"])) if isinstance(config, dict) else str(one["class_name"])


def _weights_only(path: Path) -> ModelRefused:
    return ModelRefused(
        f"{path} holds weights only, and not the model that they belong to.",
        wanted=WANTED,
        next_step="build the model, load these weights into it, and save it with model.save('NAME.keras')",
    )


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and digests of the files in it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(one for one in path.rglob("*") if one.is_file())
    lines = "".join(f"{_digest(one)}  {one.relative_to(path).as_posix()}\n" for one in files)
    return hashlib.sha256(lines.encode()).hexdigest()
