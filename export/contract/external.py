"""Check the external data of a model: weights in a separate file, because a protobuf message is limited to 2 GB.

In: an ONNX model and its path. Out: the paths of the data files, or `ContractRefused`. Data files must be in the
model's folder, because an untrusted model could name any file of this machine as its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from export.contract.consistency import size_in_bytes, tensors_of
from export.errors import ContractRefused

if TYPE_CHECKING:
    import onnx

_KEYS = frozenset({"location", "offset", "length"})
"""Keys of an external tensor that `oodscreen export` writes. Other keys, such as for prepacked weights, are refused."""


def external_locations(proto: onnx.ModelProto) -> set[str]:
    """The locations of all external tensors of a model, as stored in the graph."""
    entries = (entry for tensor in _external_tensors(proto) for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def check_external_data(path: Path, proto: onnx.ModelProto) -> list[Path]:
    """The sorted paths of a model's data files: regular files in the model's folder that contain the whole tensors.

    Raises:
        ContractRefused: the model is not a local file, a location is not the name of a regular file in the model's
            folder, a key of an external tensor is unknown, or a data file is missing or incomplete.
    """
    tensors = _external_tensors(proto)
    if tensors and not isinstance(path, Path):
        raise ContractRefused(
            f"{path} has its weights in a separate file, which onnxruntime cannot read from an object store.",
            wanted="a local file, for a model with external weights",
            next_step="copy the .onnx file and its .data file into one local folder",
        )
    return sorted({_find_data(path, tensor) for tensor in tensors})


def _find_data(path: Path, tensor: onnx.TensorProto) -> Path:
    """The file that contains a tensor's values."""
    values = {entry.key: entry.value for entry in tensor.external_data}
    location = values.get("location", "")
    data = path.resolve().parent / location
    plain = location not in ("", ".", "..") and "\\" not in location and data.name == location
    if not plain or data.is_symlink() or not values.keys() <= _KEYS:
        raise ContractRefused(
            f"{path} stores its tensor {tensor.name!r} in {location!r}, with the keys {sorted(values)}. Either "
            "the location is not a regular file in the model's folder, or a key is unknown.",
            wanted="weights in a regular file in the model's folder, with only the keys location, offset and length",
            next_step="do not use this file; export the model again",
        )
    if not data.is_file():
        raise _refuse_data(path, f"{location}, which does not exist")
    offset, length = (int(text) if (text := values.get(key, "")).isdecimal() else -1 for key in ("offset", "length"))
    size = data.stat().st_size
    if offset < 0 or length != size_in_bytes(tensor) or offset + length > size:
        raise _refuse_data(
            path,
            f"{location} ({size} bytes), which does not contain the whole tensor {tensor.name!r} at the "
            "stored offset and length",
        )
    return data


def _refuse_data(path: Path, found: str) -> ContractRefused:
    return ContractRefused(
        f"{path} has its weights in {found}.",
        wanted="the .onnx file and its complete .data file in one folder",
        next_step="copy both files again, or export the model again",
    )


def _external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in tensors_of(proto) if tensor.data_location == tensor.EXTERNAL]
