"""`oodscreen doctor`: test the capabilities of this machine.

In: nothing. Out: an `Examination`: versions, execution providers in the installed onnxruntime, the device that loads,
CUDA libraries, threads, and the speed of a matrix product.
"""

from __future__ import annotations

import ctypes
import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.runtime import onnxruntime
from screen.engine.session import Device, GraphSession, choose_device

_LIBRARIES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")
_PACKAGES = (
    "oodscreen",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnx",
    "numpy",
    "pyarrow",
    "tensorflow",
    "keras",
    "tf2onnx",
)
_SIZE = 1024
"""Rows and columns of the matrices in the speed test."""

_PROBE_SECONDS = 1.0
"""Seconds of the speed test."""


@dataclass(frozen=True)
class Examination:
    """Findings about this machine.

    Attributes:
        versions: versions of Python and of the installed packages.
        built_for: execution providers in the installed build of onnxruntime.
        device: the device that `--device auto` chooses.
        libraries: for each CUDA library, whether the system can load it.
        gflops: speed of 1024 x 1024 matrix products on `device`, in 1e9 operations per second, with one
            product at a time on each worker.
    """

    versions: dict[str, str]
    built_for: list[str]
    device: Device
    libraries: dict[str, bool]
    gflops: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "versions": self.versions,
                "built_for": self.built_for,
                "device": {"name": self.device.name, "threads": self.device.threads, "note": self.device.note},
                "libraries": self.libraries,
                "gflops": self.gflops,
            }
        )

    def to_text(self) -> str:
        """A readable report."""
        libraries = ", ".join(f"{name} {'loads' if loads else 'missing'}" for name, loads in self.libraries.items())
        lines = [
            "versions   " + ", ".join(f"{name} {text}" for name, text in self.versions.items()),
            "built for  " + ", ".join(self.built_for),
            f"device     {self.device.name}" + (f"; {self.device.note}" if self.device.note else ""),
            f"CUDA       {libraries}",
            f"threads    {self.device.threads}, one for each core available to this process",
            f"speed      {self.gflops:.0f} GFLOP/s in a {_SIZE} x {_SIZE} matrix product on {self.device.name}, "
            f"{self.device.workers} at a time",
        ]
        return "\n".join(lines)


def examine() -> Examination:
    """Examine this machine; the speed test alone takes `_PROBE_SECONDS`."""
    device = choose_device("auto", 0)
    return Examination(
        versions=_versions(),
        built_for=list(onnxruntime.get_available_providers()),
        device=device,
        libraries={name: _loads(name) for name in _LIBRARIES},
        gflops=_measure_speed(device),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _measure_speed(device: Device) -> float:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [_SIZE, _SIZE]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "speed", values[:2], values[2:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = GraphSession(model, device)
    inputs = {name: session.put(np.ones((_SIZE, _SIZE), np.float32)) for name in "ab"}
    session.run(inputs)["c"].numpy()
    started = time.perf_counter()

    def multiply(_: int) -> int:
        runs = 0
        while time.perf_counter() - started < _PROBE_SECONDS:
            session.run(inputs)["c"].numpy()
            runs += 1
        return runs

    with ThreadPoolExecutor(device.workers) as pool:
        runs = sum(pool.map(multiply, range(device.workers)))
    return 2 * _SIZE**3 * runs / (time.perf_counter() - started) / 1e9
