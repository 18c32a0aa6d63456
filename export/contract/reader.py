"""Read and check an exported ONNX file.

In: the path of a file. Out: an `ExportedModel`, or `ContractRefused`. No node is run, and TensorFlow is not loaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.contract.consistency import check_graph
from export.contract.external import check_external_data, external_locations
from export.contract.metadata import ModelContract
from export.contract.validity import check_contract
from export.errors import ContractRefused, reason_of

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ExportedModel:
    """An exported model: its graph, its contract and the SHA-256 digest of its bytes.

    The bytes of external data files are part of the digest, but their tensors are not loaded.
    """

    path: Path
    proto: onnx.ModelProto
    contract: ModelContract
    digest: str

    @property
    def weights_folder(self) -> Path | None:
        """Folder from which onnxruntime reads the external tensors; None if all tensors are in the .onnx file."""
        return self.path.resolve().parent if external_locations(self.proto) else None


def read_model(path: str | Path) -> ExportedModel:
    """The model in an exported ONNX file, after the checks of its contract and graph.

    Args:
        path: the file, or an object with the read methods of `Path`.

    Raises:
        ContractRefused: the file is missing, is not ONNX, has no valid contract, is incomplete, or its external
            weights are not in its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path) if isinstance(path, str) else path
    wanted = "an ONNX file written by `oodscreen export`"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ContractRefused(
            f"The model {path} cannot be read: {reason_of(error)}.",
            wanted=wanted,
            next_step="check the path and the permissions of the model",
        ) from error
    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ContractRefused(
            f"{path} is not an ONNX file ({len(data)} bytes, which are not valid protobuf).",
            wanted=wanted,
            next_step="give the .onnx file that `oodscreen export` wrote, not the Keras model",
        ) from error
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if not proto.graph.node:
        raise ContractRefused(
            f"{path} contains no ONNX graph.",
            wanted=wanted,
            next_step="give the .onnx file that `oodscreen export` wrote, not the Keras model",
        )
    contract = ModelContract.from_metadata(metadata, origin=str(path))
    check_contract(contract, str(path))
    check_graph(proto, contract, str(path))
    digest = hashlib.sha256(data)
    for weights in check_external_data(path, proto):
        with weights.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return ExportedModel(path=path, proto=proto, contract=contract, digest=digest.hexdigest())
