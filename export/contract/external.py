"""Weights beside the graph: what does not fit into one protobuf message is in a file of its own.

In: a graph and the path it was read from. Out: the files that hold its weights, or a refusal: a
model from a stranger could name any file of this machine as its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from export.contract.consistency import size_in_bytes, tensors_of
from export.errors import ContractRefused

if TYPE_CHECKING:
    import onnx

_KEYS = frozenset({"location", "offset", "length"})
"""What `oodscreen export` writes of a tensor that is elsewhere; onnxruntime knows more, such as prepacked weights."""


def external_locations(proto: onnx.ModelProto) -> set[str]:
    """Where the graph says that values of its tensors are, in other files."""
    entries = (entry for tensor in _external_tensors(proto) for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def check_external_data(path: Path, proto: onnx.ModelProto) -> list[Path]:
    """The data files of a model, sorted; each a plain file beside it that holds what is read from it.

    Raises:
        ContractRefused: weights are to come from elsewhere, or are not there as a whole.
    """
    tensors = _external_tensors(proto)
    if tensors and not isinstance(path, Path):
        raise ContractRefused(
            f"{path} keeps its weights in another file, which cannot be mapped into memory from there.",
            wanted="a model of more than 2 GB on this machine",
            next_step="copy the .onnx file and its .data file into a local folder",
        )
    return sorted({_find_data(path, tensor) for tensor in tensors})


def _find_data(path: Path, tensor: onnx.TensorProto) -> Path:
    """The file that holds a tensor's values."""
    values = {entry.key: entry.value for entry in tensor.external_data}
    location = values.get("location", "")
    data = path.resolve().parent / location
    plain = location not in ("", ".", "..") and "\\" not in location and data.name == location
    if not plain or data.is_symlink() or not values.keys() <= _KEYS:
        raise ContractRefused(
            f"{path} wants its tensor {tensor.name!r} from {location!r}, which may lie outside its own folder.",
            wanted="weights in a plain file beside the model, as `oodscreen export` writes them",
            next_step="do not use this file; export the model again",
        )
    if not data.is_file():
        raise _refuse_data(path, f"{location}, which is not there")
    offset, length = (int(text) if (text := values.get(key, "")).isdecimal() else -1 for key in ("offset", "length"))
    size = data.stat().st_size
    if offset < 0 or length != size_in_bytes(tensor) or offset + length > size:
        raise _refuse_data(path, f"{location}, which has {size} bytes and not those of its tensor {tensor.name!r}")
    return data


def _refuse_data(path: Path, found: str) -> ContractRefused:
    return ContractRefused(
        f"{path} keeps its weights in {found}.",
        wanted="the model and its .data file together, in one folder",
        next_step="copy both files, or export the model again",
    )


def _external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in tensors_of(proto) if tensor.data_location == tensor.EXTERNAL]
