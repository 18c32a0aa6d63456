"""Write an exported model: aside, whole, then under its name; weights beyond 2 GB in a second file.

In: a graph, and the values of weights that are not in it. Out: one `.onnx` file, or one with a
data file beside it. A reader sees the old model or the new one, never half of either.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.contract.external import external_locations
from export.errors import OutputRefused, WriteFailed

LARGEST_FILE = 2**31 - 2**20
"""What protobuf can hold in one message, less a mebibyte for what is added later."""

_SMALLEST_EXTERNAL = 4096
"""Smaller tensors stay in the graph: shapes and the like are read from there."""


def check_output(output: Path) -> None:
    """Refuse a place where nothing can be written, before any work is done.

    Raises:
        OutputRefused: no such folder, not writable, or a name that does not end in .onnx.
    """
    if output.is_dir() or not os.access(output.resolve().parent, os.W_OK):
        raise OutputRefused(
            f"The ONNX file cannot be written to {output}.",
            wanted="a file name in a folder that exists and may be written to",
            next_step=f"create {output.resolve().parent} or choose another place",
        )
    if output.suffix != ".onnx":
        raise OutputRefused(
            f"The ONNX file would be called {output.name}.",
            wanted="a name that ends in .onnx, so that no other file is replaced by mistake",
            next_step=f"call it {output.with_suffix('.onnx').name}",
        )


class ModelFiles:
    """An exported model while it is made: a hidden folder beside the place where it will be.

    Args:
        output: where the model will be; where that is a link, what it points at.
        folder: the hidden folder.
    """

    def __init__(self, output: Path, folder: Path) -> None:
        self._output = output.resolve()
        self._folder = folder
        self.path = folder / output.name
        self._data: Path | None = None

    def write_weights(self, model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Move the large tensors of a graph into a data file, if the graph is too large for one file.

        Args:
            model: the graph; its initializers then say where their values are.
            weights: values of the initializers that hold none.
        """
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        if not weights and inside <= LARGEST_FILE:
            return
        digest = hashlib.sha256()
        aside = self._folder / "weights"
        moved: list[tuple[TensorProto, int, int]] = []
        with aside.open("wb") as file:
            for tensor in model.graph.initializer:
                if tensor.name not in weights and len(tensor.raw_data) < _SMALLEST_EXTERNAL:
                    continue
                values = weights.get(tensor.name)
                large = memoryview(tensor.raw_data) if values is None else np.ascontiguousarray(values, "<f4").data
                data = large.cast("B")
                file.write(b"\0" * (-file.tell() % 4096))  # a page, so that it can be mapped into memory
                moved.append((tensor, file.tell(), data.nbytes))
                file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        self._data = self._folder / f"{self._output.stem}.{digest.hexdigest()[:16]}.data"
        aside.rename(self._data)
        for tensor, offset, length in moved:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", self._data.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))

    def write_graph(self, model: onnx.ModelProto, name: str | None = None) -> Path:
        """Write a graph that uses these weights; the file that will be the model, or another beside it."""
        path = self.path if name is None else self._folder / name
        with path.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        return path

    def publish(self) -> None:
        """Give the files their names: the weights first, then the graph that reads them.

        Weights of the model that was there before are removed afterwards.
        """
        before = _data_files(self._output)
        if self._data is not None:
            self._data.chmod(0o644)
            os.replace(self._data, self._output.parent / self._data.name)
        self.path.chmod(0o644)
        os.replace(self.path, self._output)
        for path in before - _data_files(self._output):
            path.unlink(missing_ok=True)


@contextmanager
def model_files(output: Path) -> Iterator[ModelFiles]:
    """Files for a model in the making; whatever is not published is removed.

    Raises:
        WriteFailed: the place has no room, or may not be written to.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.resolve().parent))
        yield ModelFiles(output, folder)
    except OSError as error:
        raise WriteFailed(
            f"{output} could not be written: {error.strerror or error}.",
            wanted="a place with room that may be written to",
            next_step="make room or choose another place",
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _data_files(path: Path) -> set[Path]:
    """The data files beside a model that only we can have written for it."""
    try:
        locations = external_locations(onnx.load_model(path, load_external_data=False))
    except Exception:  # noqa: BLE001  whatever was there before, it is replaced
        return set()
    return {
        path.resolve().parent / name
        for name in locations
        if name.startswith(f"{path.stem}.") and name.endswith(".data")
    }
