"""Read an exported ONNX file: its graph, its contract and the digest of its bytes.

In: the path of a file. Out: an `ExportedModel`, or a refusal. No node is run and TensorFlow is not loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.contract.consistency import check_graph
from export.contract.external import check_external_data, external_locations
from export.contract.metadata import ModelContract
from export.errors import ContractRefused

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ExportedModel:
    """An exported file, read once: its graph, its contract and the digest of its bytes.

    Values of external tensors stay in their file beside `path`; `digest` covers them too.
    """

    path: Path
    proto: onnx.ModelProto
    contract: ModelContract
    digest: str

    @property
    def weights_folder(self) -> Path | None:
        """The folder in which onnxruntime must look for external tensors; None where there are none."""
        return self.path.resolve().parent if external_locations(self.proto) else None


def read_model(path: str | Path) -> ExportedModel:
    """Read an exported ONNX file and its contract.

    Args:
        path: the file, or an object that reads like a `Path`.

    Raises:
        ContractRefused: there is no such file, it is not ONNX, it carries no readable contract, or
            it is not whole; weights in another file must be beside it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path) if isinstance(path, str) else path
    wanted = "an ONNX file written by `oodscreen export`"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ContractRefused(
            f"The model {path} cannot be read: {error.strerror or error}.",
            wanted=wanted,
            next_step="check the path of the model",
        ) from error
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ContractRefused(
            f"{path} is not an ONNX file ({len(data)} bytes that do not parse).",
            wanted=wanted,
            next_step="give the .onnx file, not the Keras model; to make one: oodscreen export",
        ) from error
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if not proto.graph.node:
        raise ContractRefused(
            f"{path} holds no ONNX graph.",
            wanted=wanted,
            next_step="give the .onnx file, not the Keras model; to make one: oodscreen export",
        )
    contract = ModelContract.from_metadata(metadata, origin=str(path))
    check_graph(proto, contract, str(path))
    digest = hashlib.sha256(data)
    for weights in check_external_data(path, proto):
        with weights.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return ExportedModel(path=path, proto=proto, contract=contract, digest=digest.hexdigest())
