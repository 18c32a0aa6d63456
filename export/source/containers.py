"""Recognise model files by their content, and read the configuration of their layers.

In: a path. Out: a `Container`: the configuration as plain data, and the version of Keras that wrote the file. Keras
models are recognised without the names of their files, because one kind of file has several extensions. The error for a
file that is not a Keras model states the kind of the file.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from export.errors import ModelRefused
from export.source.keras_2.saved_objects import CHECKPOINT
from export.source.saved_model import WANTED, from_tensorflow_js, read_folder_config

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_SPACE = b" \t\r\n\xef\xbb\xbf"
_WANTED_WEIGHTS = "a file written by model.save_weights('NAME.weights.h5') or model.save_weights('NAME.h5')"

_OTHER_KINDS: tuple[tuple[bytes, int, str], ...] = (
    (b"version https://git-lfs", 0, "a Git LFS pointer, which stands for the file in the repository"),
    (b"TFL3", 4, "a TensorFlow Lite model, which contains no layers"),
    (b"\x80\x02\x8a\x0a", 0, "a file of PyTorch"),
    (b"\x80", 0, "a Python pickle"),
    (b"\x93NUMPY", 0, "a NumPy array"),
    (b"\x1f\x8b", 0, "a compressed archive (gzip)"),
    (b"7z\xbc\xaf", 0, "a compressed archive (7z)"),
    (b"Rar!", 0, "a compressed archive (rar)"),
    (b"<", 0, "a page of HTML or XML, not a model"),
)
"""Kinds of files that are not Keras models: the bytes by which they are recognised, their offset, and the kind."""

_WEIGHTS = "model.weights.h5"
"""Name of the file with the weights in a `.keras` archive."""

_LFS = "version https://git-lfs"
_KERAS_1 = ("Convolution1D", "Convolution2D", "Convolution3D", "AtrousConvolution2D", "Merge", "MaxoutDense", "Highway")
_KERAS_1_SETTINGS = ("nb_filter", "nb_row", "border_mode", "dim_ordering", "subsample", "inner_activation", "p")


@dataclass(frozen=True)
class Container:
    """A model file.

    Attributes:
        path: path of the file or folder.
        kind: how the file stores the model; `json` contains no weights.
        config: configuration of the layers, as plain data.
        version: version of Keras that wrote the file; "" if unknown.
    """

    path: Path
    kind: Literal["zip", "hdf5", "json", "folder"]
    config: Any
    version: str = ""

    @property
    def age(self) -> int:
        """Major version of Keras that wrote the file; derived from the configuration if `version` is unknown."""
        if self.version.partition(".")[0].isdigit():
            return max(1, int(self.version.partition(".")[0]))
        if "module" in self.config:
            return 3
        return 1 if any(_is_of_keras_1(one) for one in objects_in(self.config)) else 2


def read_container(path: Path) -> Container:
    """The configuration of a model file or folder. No code in the file is run.

    Raises:
        ModelRefused: the file is missing, is damaged, is of another kind, was written by Keras 1, or contains only
            weights.
    """
    if not path.exists():
        raise ModelRefused(f"There is no model file {path}.", wanted=WANTED, next_step="check the path of the model")
    if path.is_dir():
        return Container(path, "folder", read_folder_config(path), "2")
    with _errors_of(path):
        start = _start(path)
        if start.startswith(_ZIP):
            container = _read_zip(path)
        elif start.startswith(_HDF5):
            container = _read_hdf5(path)
        elif start.lstrip(_SPACE)[:1] == b"{":
            container = _read_json(path)
        else:
            raise _other_kind(path, start)
    if container.age == 1:
        raise ModelRefused(
            f"{path} was written by Keras {container.version or '1'}, whose layers differ from those "
            "of Keras 2 and 3 in names and settings.",
            wanted="a model of Keras 2 or 3",
            next_step="install tf_keras (pip install tf_keras), build the model with it, and export the file that this "
            f"Python code writes: model.load_weights('{path}'); model.save('{path.stem}-keras-2.h5')",
        )
    return container


def rebuilding(path: Path) -> str:
    """Python code that reads the weights of a file or folder into a `model`, rebuilt in Keras 3, and saves the model.

    Keras 3 reads the weights of `.h5` and `.keras` files of Keras 2 too, but not of folders.
    """
    if not path.is_dir():
        return f"model.load_weights('{path}'); model.save('{path.stem}-rebuilt.keras')"
    return (
        f"old.load_weights('{path}/{CHECKPOINT}').expect_partial(); old.save_weights('{path.name}.weights.h5'); "
        f"model.load_weights('{path.name}.weights.h5'); model.save('{path.name}-rebuilt.keras'), where old is the same "
        "model, built with tf_keras (pip install tf_keras)"
    )


def objects_in(config: Any) -> Iterator[dict[str, Any]]:
    """All serialized objects in a configuration; an outer object precedes its inner ones."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        parts: Any = config.values()
    else:
        parts = config if isinstance(config, list) else ()
    for part in parts:
        yield from objects_in(part)


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """The weights in a model file or a file of weights, as an open `h5py.File`.

    Raises:
        ModelRefused: the file is missing, is damaged, or is of another kind.
    """
    import h5py

    if not path.is_file():
        raise ModelRefused(
            f"The file of weights {path} does not exist.",
            wanted=_WANTED_WEIGHTS,
            next_step="check the path of the file",
        )
    with ExitStack() as stack:
        with _errors_of(path):
            start = _start(path)
            source: IO[bytes] = stack.enter_context(path.open("rb"))
            if start.startswith(_ZIP):
                with zipfile.ZipFile(source) as archive:
                    _refuse_bomb(path, sum(entry.file_size for entry in archive.infolist()))
                    source = io.BytesIO(archive.read(_WEIGHTS))
            elif not start.startswith(_HDF5):
                raise _other_kind(path, start)
            file = stack.enter_context(h5py.File(source, "r"))
        yield file


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Within the block, errors of reading and parsing a file become `ModelRefused`."""
    try:
        yield
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise ModelRefused(
            f"{path} could not be read: {error}.",
            wanted=WANTED,
            next_step="compare the size of the file with its size where it was saved, and copy or download it again",
        ) from error


_MOST_UNPACKED = 2**28
"""Maximum size in bytes of the decompressed content of a file with a compression ratio above `_MOST_COMPRESSION`."""

_MOST_COMPRESSION = 20
"""Maximum ratio of decompressed size to file size for large content; Keras does not compress its archives, and the
ratio for compressed weights is smaller."""


def _refuse_bomb(path: Path, unpacked: int) -> None:
    """Refuse a file whose content needs far more memory than the size of the file.

    Args:
        path: the file.
        unpacked: size of the decompressed content in bytes.
    """
    packed = path.stat().st_size
    if unpacked > max(_MOST_UNPACKED, _MOST_COMPRESSION * packed):
        raise ModelRefused(
            f"{path} has {packed / 1e6:.0f} MB, but its content has {unpacked / 1e9:.1f} GB after decompression.",
            wanted=f"content of at most {_MOST_COMPRESSION} times the size of the file",
            next_step="where the model was trained, save it again with model.save('NAME.keras'), which does not "
            "compress",
        )


def _size_of_arrays(source: Path | IO[bytes]) -> int:
    """Total size in bytes of all arrays in an HDF5 file; the arrays are not read."""
    import h5py

    sizes: list[int] = []

    def add(_name: str, one: Any) -> None:
        sizes.append(one.nbytes if isinstance(one, h5py.Dataset) else 0)

    with h5py.File(source, "r") as file:
        file.visititems(add)
    return sum(sizes)


def _start(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(64)


def _read_zip(path: Path) -> Container:
    with zipfile.ZipFile(path) as archive:
        _refuse_bomb(path, sum(entry.file_size for entry in archive.infolist()))
        names = archive.namelist()
        if "config.json" in names:
            if _WEIGHTS in names:
                with archive.open(_WEIGHTS) as file:
                    _refuse_bomb(path, _size_of_arrays(file))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
            version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
            return _checked(Container(path, "zip", json.loads(archive.read("config.json")), str(version)))
    if any(name.endswith("data.pkl") for name in names):
        raise _refuse(path, "a file of PyTorch")
    raise ModelRefused(
        f"{path} is a zip archive without config.json at its top level; its first files are {', '.join(names[:3])}."
        if names
        else f"{path} is an empty zip archive.",
        wanted=WANTED,
        next_step="unpack the archive, and export the folder: "
        f"python -m zipfile -e '{path}' '{path.with_suffix('')}-files'",
    )


def _read_hdf5(path: Path) -> Container:
    import h5py

    _refuse_bomb(path, _size_of_arrays(path))
    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
        version = _text(file.attrs.get("keras_version", ""))
        if text is None:
            raise ModelRefused(
                f"{path} contains only weights, without the layers of the model.",
                wanted=WANTED,
                next_step="write the layers where the model was trained: "
                "open('model.json', 'w').write(model.to_json()); then export model.json with --weights "
                f"{path.name}",
            )
    return _checked(Container(path, "hdf5", json.loads(_text(text)), version))


def _read_json(path: Path) -> Container:
    config = json.loads(path.read_text(encoding="utf-8-sig"))
    if "modelTopology" in config:
        raise ModelRefused(
            f"{path} is a model of TensorFlow.js.", wanted=WANTED, next_step=from_tensorflow_js(path, config)
        )
    if "class_name" not in config or "config" not in config:
        raise _refuse(path, "a JSON file without the layers of a Keras model")
    return _checked(Container(path, "json", config, str(config.get("keras_version", ""))))


def _checked(container: Container) -> Container:
    """The container, after a check that its configuration is that of a Keras object.

    Raises:
        ValueError: the configuration has another form.
    """
    config = container.config
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise ValueError("the configuration of the model has no class_name or no config")
    return container


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_of_keras_1(one: Mapping[str, Any]) -> bool:
    config = one.get("config")
    settings = config if isinstance(config, Mapping) else {}
    if one["class_name"] == "Dense" and "output_dim" in settings:
        return True
    return one["class_name"] in _KERAS_1 or any(key in settings for key in _KERAS_1_SETTINGS)


def _other_kind(path: Path, start: bytes) -> ModelRefused:
    """`ModelRefused` for a file that is not a Keras model; its first bytes or its name determine its kind."""
    if not start:
        return _refuse(path, "empty")
    if path.name == "saved_model.pb":
        return ModelRefused(
            f"{path} is one file of a SavedModel folder.", wanted=WANTED, next_step=f"give the folder {path.parent}"
        )
    for first, offset, kind in _OTHER_KINDS:
        if (start[offset:] if offset else start.lstrip(_SPACE)).startswith(first):
            return _refuse(path, kind, lfs=first.decode("latin-1") == _LFS)
    if path.suffix == ".onnx" or start[:1] == b"\x08":
        return _refuse(path, "an ONNX model")
    if path.suffix == ".pb" or start[:1] == b"\x0a":
        return _refuse(path, "a graph of TensorFlow (frozen graph), which contains no layers")
    return _refuse(path, f"of an unknown kind (it begins with {start[:8]!r})")


def _refuse(path: Path, kind: str, *, lfs: bool = False) -> ModelRefused:
    unpack = "unpack the archive, and export the file or folder in it:"
    steps = {
        part: f"{unpack} {way} '{path}'" for part, way in (("gzip", "tar -xzf"), ("7z", "7z x"), ("rar", "unrar x"))
    }
    steps["HTML"] = "download the file itself, in place of the page that describes it"
    steps["PyTorch"] = "export the PyTorch model with active dropout, by torch.onnx.export, and give the .onnx file"
    step = next((step for part, step in steps.items() if part in kind), "give the file that model.save of Keras wrote")
    return ModelRefused(
        f"{path} is {kind}.",
        wanted=WANTED,
        next_step=f"download the file: cd '{path.parent}' && git lfs pull" if lfs else step,
    )
