"""Load a trained model from a file, by default without running code from the file.

In: a model file or folder (`export.source.containers`), and for a configuration without weights a file of weights. Out:
a `KerasSource`. The configuration is checked before the model is built, and the built model before its weights are
read, except that Keras reads the `.h5` files of Keras 3 in one step. Code in the file (Lambda layers) is refused unless
`unsafe` is set. Classes that are not part of Keras are refused unless the user gives them, or unless their name and
settings denote a dropout layer. Models of Keras 2 are built by `export.source.keras_2`, and models of Keras 3 by Keras.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from export.errors import ModelRefused, OptionRefused
from export.source.choice import SiteChoice
from export.source.containers import Container, open_weights, read_container, rebuilding
from export.source.describe import KerasSource, describe_model, import_keras
from export.source.keras_2.build import build_model
from export.source.keras_2.layers import classes_of_applications
from export.source.keras_2.weights import assign_weights, has_layer_names, layers_of
from export.source.lambdas import check_code
from export.source.network import reason_in
from export.source.saved_model import rebuild
from export.source.stand_in import find_stand_ins, without_training


def load_model(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
    choice: SiteChoice | None = None,
    output: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> KerasSource:
    """Load the model in a file, and return its description; the optimizer is not loaded.

    Keras' safe mode is on unless `unsafe` is set.

    Args:
        path: path of the file or folder.
        weights: path of the weights of a model whose file contains only the configuration of the layers.
        custom_objects: classes and functions that are not part of Keras, by the name in the file.
        unsafe: whether to run code in the file; only for trusted files.
        choice: selection of sites and rates.
        output: name of the output, for a model with several outputs.
        image_shape: shape of the images; None if the input of the model determines it.

    Raises:
        ModelRefused: the file is missing or damaged, it contains code or unknown classes, a weight is not finite, or
            `describe_model` refuses the model.
        OptionRefused: `weights` is given for a file that contains weights, or missing for a JSON file of the layers; or
            `describe_model` refuses an option.
    """
    unread = _read(Path(path), weights, custom_objects or {}, unsafe=unsafe)
    source = describe_model(
        unread.model,
        origin=str(path),
        digest=unread.digest,
        choice=choice,
        output=output,
        image_shape=image_shape,
        notices=unread.notices,
    )
    unread.assign()
    _require_finite(unread.model, str(path))
    return source


def load_keras(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
) -> Any:
    """The model in a file or folder of any version of Keras 2 or 3, as a `keras.Model` of the installed Keras 3.

    Args:
        path: path of the file or folder.
        weights: path of the weights of a model whose file contains only the configuration of the layers.
        custom_objects: classes and functions that are not part of Keras, by the name in the file.
        unsafe: whether to run code in the file; only for trusted files.

    Raises:
        ModelRefused: the file is missing or damaged, or contains code or unknown classes.
        OptionRefused: `weights` is given for a file that contains weights, or missing for a JSON file of the layers.
    """
    unread = _read(Path(path), weights, custom_objects or {}, unsafe=unsafe)
    unread.assign()
    return unread.model


@dataclass(frozen=True)
class _Unread:
    """A model that was built from its configuration, before its weights are read.

    Attributes:
        model: the Keras model.
        assign: function that reads the weights of the model; it does nothing for an `.h5` file of Keras 3.
        digest: SHA-256 of the files of the model.
        notices: notices for the user.
    """

    model: Any
    assign: Callable[[], None]
    digest: str
    notices: tuple[str, ...]


def _read(path: Path, weights: str | Path | None, given: Mapping[str, Any], *, unsafe: bool) -> _Unread:
    """The model in a file or folder, before its weights are read."""
    container = read_container(path)
    weights = _weights_path(container, weights)
    import_keras()
    with _errors_of(path, weights or path):
        if container.age == 3 and container.kind != "hdf5":
            container = replace(container, config=without_training(container.config, given))
        check_code(container.config, path, unsafe=unsafe)
        stand_ins = find_stand_ins(container, given)
        model, assign = _build(container, weights, {**stand_ins, **given}, unsafe=unsafe)

    def read_weights() -> None:
        with _errors_of(weights or path, weights or path):
            assign()

    notices = tuple(
        f"the file does not contain the code of the class {name}; because of the name and settings of the class, its "
        f"layers are loaded as {stand_in.__base__.__name__} layers that are always active"
        for name, stand_in in stand_ins.items()
    )
    digest = _digest(path) if weights in (None, path) else _digest(path, weights)
    return _Unread(model, read_weights, digest, notices)


def _weights_path(container: Container, weights: str | Path | None) -> Path | None:
    """Path of the file with the weights; None for a folder.

    Raises:
        OptionRefused: `weights` is given for a file that contains weights, or missing for a JSON file of the layers.
    """
    path = container.path
    if container.kind != "json" and weights is not None:
        raise OptionRefused(
            f"--weights {weights} was given, but {path} contains weights of its own.",
            wanted="one source of weights",
            next_step="leave out --weights, or give the layers as a JSON file: "
            "from export import load_keras; "
            f"import pathlib; pathlib.Path('model.json').write_text(load_keras('{path}').to_json()); then export "
            "model.json",
        )
    if container.kind == "json" and weights is None:
        raise OptionRefused(
            f"{path} contains the layers of the model, but no weights.",
            wanted="the weights of the model, in an HDF5 file",
            next_step="add --weights FILE, written by model.save_weights('NAME.weights.h5')",
        )
    return Path(weights) if weights is not None else None if container.kind == "folder" else path


def _build(
    container: Container, weights: Path | None, objects: Mapping[str, Any], *, unsafe: bool
) -> tuple[Any, Callable[[], None]]:
    """The model, and a function that assigns its weights."""
    import keras

    path = container.path
    if weights is None:
        return rebuild(path, container.config, objects, unsafe=unsafe)
    if container.age == 2:
        built = build_model(container.config, objects, unsafe=unsafe)

        def assign() -> None:
            with open_weights(weights) as file:
                assign_weights(built, file, str(weights))

        return built.model, assign
    if container.kind != "hdf5":
        model = keras.saving.deserialize_keras_object(container.config, objects, safe_mode=not unsafe)
        return model, lambda: _assign_to(model, weights)
    objects = {**classes_of_applications(), **objects}  # Keras finds these classes in .keras files only
    with _named(path, ".h5") as file:
        return keras.saving.load_model(file, objects, compile=False, safe_mode=not unsafe), _nothing


def _nothing() -> None:
    """Do nothing, because Keras has assigned the weights."""


def _assign_to(model: Any, weights: Path) -> None:
    """Assign the weights in a file of Keras 2 or 3 to a model of Keras 3."""
    with open_weights(weights) as file:
        if has_layer_names(file):
            return assign_weights(layers_of(model), file, str(weights))
    with _named(weights, ".keras" if is_zipfile(weights) else ".weights.h5") as file:
        model.load_weights(file)
    return None


def _require_finite(model: Any, origin: str) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Raises:
        ModelRefused: a weight is not finite.
    """
    import keras

    for weight in model.weights:
        if "float" in str(weight.dtype) and not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise ModelRefused(
                f"The weight {weight.path} of {origin} contains NaN or infinity.",
                wanted="finite weights",
                next_step="export a file that was saved before the training diverged",
            )


@contextmanager
def _named(path: Path, extension: str) -> Iterator[Path]:
    """Within the block, a path to the file with the extension by which Keras recognises the format."""
    if path.name.endswith(extension):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / f"model{extension}"
        try:
            other.symlink_to(path.resolve())
        except OSError:  # Windows allows links to some users only
            shutil.copyfile(path, other)
        yield other


@contextmanager
def _errors_of(path: Path, weights: Path) -> Iterator[None]:
    """Within the block, every error becomes `ModelRefused`.

    Args:
        path: the file or folder that is read in the block.
        weights: the file or folder with the weights of the model.
    """
    try:
        yield
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(
            f"Keras could not load {path}: {reason_in(error)}.",
            wanted="a model whose layers are part of the installed Keras or are given by --custom-objects",
            next_step="build the model with the installed version of Keras, and export the file that this Python code "
            f"writes: {rebuilding(weights)}",
        ) from error


def _digest(path: Path, *others: Path) -> str:
    """SHA-256 of a file; for a folder or several files, SHA-256 of the names and digests of the files."""
    if path.is_file() and not others:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if others:
        files = [path, *others]
        names = [one.name for one in files]
    else:
        files = sorted(one for one in path.rglob("*") if one.is_file())
        names = [one.relative_to(path).as_posix() for one in files]
    lines = "".join(f"{_digest(one)}  {name}\n" for one, name in zip(files, names, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
