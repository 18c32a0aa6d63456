"""Read an ONNX file with its external weights, and refuse damaged or incomplete files and other formats.

In: a path. Out: an `OnnxFile`, or `ModelRefused`. No node is run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from export.contract.consistency import tensors_of
from export.contract.external import external_locations
from export.errors import ModelRefused
from export.graph.files import LARGEST_FILE
from export.onnx_source.graphs import STANDARD, node_lists

_FIRST_BYTE = b"\x08"
"""First byte of an ONNX file: the field `ir_version` of a ModelProto."""

_WANTED = "an ONNX file of a network in float32, with one image input and Dropout nodes"

_FROM_OTHER_FILES = {
    "a PyTorch file": "export the PyTorch model with active dropout, by torch.onnx.export, and give the .onnx file",
    "a ZIP archive": "extract the archive, and give the path of the .onnx file in it",
    "a Git LFS pointer": "run git lfs pull in the repository",
    "a web page": "open the address in a browser, and download the file itself, after a login if the page asks for one",
}
"""Next steps for files that often have the name of an ONNX file, by kind of the file."""

_COPY = "copy the .onnx file again, with the files of its weights in the same folder"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file.

    Attributes:
        path: path of the file.
        proto: the model, with its external weights.
        digest: SHA-256 of the file; if weights are external, SHA-256 of the names and digests of all files.
    """

    path: Path
    proto: onnx.ModelProto
    digest: str

    @property
    def origin(self) -> str:
        """Path of the file, for messages."""
        return str(self.path)

    @property
    def writer(self) -> dict[str, str]:
        """Version of the program that wrote the file, by name of the program; empty if unknown."""
        name, version = _plain(self.proto.producer_name), _plain(self.proto.producer_version)
        return {name: version} if name else {}


def _plain(text: str | bytes) -> str:
    """The first 60 printable characters of a text; texts in damaged files can contain other characters."""
    decoded = text if isinstance(text, str) else text.decode(errors="replace")
    return "".join(one for one in decoded if one.isprintable())[:60]


def is_onnx(path: Path) -> bool:
    """Whether a path is an ONNX file, by its content or by its name."""
    if path.is_dir():
        return False
    if path.suffix.lower() == ".onnx":
        return True
    try:
        with path.open("rb") as file:
            return file.read(1) == _FIRST_BYTE
    except OSError:
        return False


def read_file(path: Path) -> OnnxFile:
    """Read an ONNX file with its external weights.

    Raises:
        ModelRefused: the file cannot be read, is not ONNX, was written by `oodscreen export`, or has two values with
            the same name; or its external weights are missing, damaged, outside its folder or too large.
    """
    try:
        data = path.read_bytes()
        proto = onnx.load_model_from_string(data)
    except OSError as error:
        raise ModelRefused(
            f"{path} could not be read: {error.strerror or error}.",
            wanted=_WANTED,
            next_step="check the path and the permissions of the model",
        ) from error
    except DecodeError as error:
        raise _not_onnx(path, data) from error
    if not proto.graph.node or not proto.graph.output:
        raise _not_onnx(path, data)
    _use_one_domain(proto)
    _check_names(path, proto)
    metadata = {entry.key for entry in proto.metadata_props}
    if "oodscreen.contract_version" in metadata:
        raise ModelRefused(
            f"{path} was written by oodscreen export: its dropout is already stochastic, and it contains a contract.",
            wanted="an ONNX file that another program wrote",
            next_step=f"use the file as it is: oodscreen calibrate {path} SHARDS --output OUT.calibration",
        )
    digests = [(path.name, hashlib.sha256(data).hexdigest())]
    locations = sorted(external_locations(proto))
    if locations:
        digests += [(location, _digest(_find_data(path, location))) for location in locations]
        _load_weights(path, proto, locations)
    digest = digests[0][1]
    if len(digests) > 1:
        digest = hashlib.sha256("".join(f"{one}  {name}\n" for name, one in digests).encode()).hexdigest()
    return OnnxFile(path, proto, digest)


def _use_one_domain(proto: onnx.ModelProto) -> None:
    """Replace `ai.onnx`, a name of the domain of the standard operators, by the other name, the empty string."""
    for nodes in node_lists(proto):
        for node in nodes:
            node.domain = "" if node.domain in STANDARD else node.domain
    for imports in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        for entry in imports:
            entry.domain = "" if entry.domain in STANDARD else entry.domain


def _check_names(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse two values with the same name, because programs differ in which of the two values they read."""
    names = [tensor.name for tensor in proto.graph.initializer]
    names += [name for node in proto.graph.node for name in node.output if name]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ModelRefused(
            f"{path} has several values with the name {_plain(repeated[0])}.",
            wanted="a different name for each value, as ONNX requires",
            next_step="export the model again; if another program changed the file, give the original file",
        )


def _not_onnx(path: Path, data: bytes) -> ModelRefused:
    start = data[:200].lstrip().lower()
    kind = ""
    if data[:2] == b"PK":
        kind = "a PyTorch file" if b".onnx" not in data[:200] else "a ZIP archive"
    elif data[:2] == b"\x80\x02":
        kind = "a PyTorch file"
    elif b"git-lfs" in data[:60]:
        kind = "a Git LFS pointer"
    elif start.startswith((b"<!doctype html", b"<html")):
        kind = "a web page"
    return ModelRefused(
        f"{path} is not an ONNX file ({len(data)} bytes{f', {kind}' if kind else ''}).",
        wanted=_WANTED,
        next_step=_FROM_OTHER_FILES.get(
            kind, "compare the size of the file with the size of the original file, and copy or download the file again"
        ),
    )


def _find_data(path: Path, location: str) -> Path:
    """The file with external weights, which must be a regular file in the folder of the model."""
    folder = path.resolve().parent
    data = folder / location
    if not location or data.is_symlink() or data.resolve().parent != folder:
        raise ModelRefused(
            f"{path} stores weights in {location!r}, which is not a regular file in the folder of the model.",
            wanted="weights in the .onnx file, or in regular files in its folder",
            next_step="do not use the file if its origin is unknown; otherwise write the file again with the weights "
            f"inside: python -c \"import onnx; onnx.save(onnx.load('{path}'), 'MODEL.onnx')\"",
        )
    if not data.is_file():
        raise ModelRefused(
            f"{path} stores weights in {location!r}, which does not exist in its folder.",
            wanted="the .onnx file and the files of its weights in one folder, under their own names",
            next_step=_COPY,
        )
    return data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_weights(path: Path, proto: onnx.ModelProto, locations: list[str]) -> None:
    """Load the external weights of a model into `proto`."""
    folder = path.resolve().parent
    size = sum((folder / location).stat().st_size for location in locations)
    if size > LARGEST_FILE:
        raise ModelRefused(
            f"{path} has {size / 1e9:.1f} GB of external weights.",
            wanted=f"at most {LARGEST_FILE / 1e9:.1f} GB of weights, which is the limit of an ONNX graph in memory",
            next_step="export a smaller network of the same family; the export of Keras models supports weights above "
            "this limit",
        )
    try:
        for tensor in tensors_of(proto):
            if external_data_helper.uses_external_data(tensor):
                external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelRefused(
            f"The external weights of {path} are damaged: {error}.",
            wanted="complete files of weights, as the exporter wrote them",
            next_step=_COPY,
        ) from error
