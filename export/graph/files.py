"""Write an exported model atomically through a staging folder, with a separate data file for a large model.

In: a graph, and the values of its external weights. Out: an `.onnx` file, or an `.onnx` file and a `.data` file. At
any time, the output path contains the complete old model or the complete new model.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.contract.external import external_locations
from export.errors import OutputRefused, WriteFailed
from export.leftovers import staging_folder

LARGEST_FILE = 2**31 - 2**20
"""Maximum bytes of weights in the graph: protobuf's limit for one message, less 1 MiB for nodes and metadata."""

_SMALLEST_EXTERNAL = 4096
"""Minimum bytes of an external tensor; smaller tensors, such as shapes, must stay in the graph."""


def check_output(output: Path) -> None:
    """Check that the output path is writable; called before the export starts.

    Raises:
        OutputRefused: the path is a folder, the parent folder is missing or not writable, or the name does not end
            in .onnx.
    """
    if output.is_dir() or not os.access(output.resolve().parent, os.W_OK):
        raise OutputRefused(
            f"The ONNX file cannot be written to {output}.",
            wanted="a file name in an existing, writable folder",
            next_step=f"check that {output.resolve().parent} is a writable folder and that {output} is not a "
            "folder, or choose another path",
        )
    if output.suffix != ".onnx":
        raise OutputRefused(
            f"The output file {output.name} does not end in .onnx.",
            wanted="a name that ends in .onnx, so that no other file is replaced by mistake",
            next_step=f"name the output file {output.with_suffix('.onnx').name}",
        )


class ModelFiles:
    """The files of an exported model in a hidden staging folder, until `publish` moves them to the output path.

    Args:
        output: path of the published model; a symbolic link is followed.
        folder: the staging folder.
    """

    def __init__(self, output: Path, folder: Path) -> None:
        self._output = output.resolve()
        self._folder = folder
        self.path = folder / output.name
        self._data: Path | None = None

    def write_weights(self, model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Move the large tensors to a data file, if the graph is too large for one file or if `weights` has entries.

        Args:
            model: the graph; its large initializers become external.
            weights: values of the initializers that are already external.
        """
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        if not weights and inside <= LARGEST_FILE:
            return
        digest = hashlib.sha256()
        staging = self._folder / "weights"
        moved: list[tuple[TensorProto, int, int]] = []
        with staging.open("wb") as file:
            for tensor in model.graph.initializer:
                if tensor.name not in weights and len(tensor.raw_data) < _SMALLEST_EXTERNAL:
                    continue
                values = weights.get(tensor.name)
                large = memoryview(tensor.raw_data) if values is None else np.ascontiguousarray(values, "<f4").data
                data = large.cast("B")
                file.write(b"\0" * (-file.tell() % 4096))  # page alignment, for memory mapping
                moved.append((tensor, file.tell(), data.nbytes))
                file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        self._data = self._folder / f"{self._output.stem}.{digest.hexdigest()[:16]}.data"
        staging.rename(self._data)
        for tensor, offset, length in moved:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", self._data.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))

    def write_graph(self, model: onnx.ModelProto, name: str | None = None) -> Path:
        """Write a graph to the staging folder, under the output's file name or under `name`, and return the path."""
        path = self.path if name is None else self._folder / name
        with path.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        return path

    def publish(self) -> None:
        """Move the files to the output folder: first the weights, then the graph, which refers to the weights.

        Data files that only the replaced model used are deleted afterwards.
        """
        before = _data_files(self._output)
        if self._data is not None:
            self._data.chmod(0o644)
            os.replace(self._data, self._output.parent / self._data.name)
        self.path.chmod(0o644)
        os.replace(self.path, self._output)
        for path in before - _data_files(self._output):
            path.unlink(missing_ok=True)


STAGING_PREFIX = ".oodscreen_export-"
"""Beginning of the names of staging folders; `oodscreen run` does not remove these folders."""


@contextmanager
def model_files(output: Path) -> Iterator[ModelFiles]:
    """The `ModelFiles` of an export, in a staging folder that is deleted at the end of the block.

    Raises:
        WriteFailed: a file could not be written, for example because the disk is full.
    """
    try:
        with staging_folder(output.resolve().parent, STAGING_PREFIX) as folder:
            yield ModelFiles(output, folder)
    except OSError as error:
        raise WriteFailed(
            f"{output} could not be written: {error.strerror or error}.",
            wanted="a writable folder with enough free space",
            next_step="free space on the disk, or choose another path",
        ) from error


def _data_files(path: Path) -> set[Path]:
    """The data files of a model whose names have the form that `write_weights` uses."""
    try:
        locations = external_locations(onnx.load_model(path, load_external_data=False))
    except Exception:  # noqa: BLE001  an existing file that is not ONNX is replaced too
        return set()
    return {
        path.resolve().parent / name
        for name in locations
        if name.startswith(f"{path.stem}.") and name.endswith(".data")
    }
