"""Describe this machine: versions of packages, GPUs, CUDA libraries and cores.

In: nothing. Out: `Machine`. Nothing is measured, and no CUDA context is created.
"""

from __future__ import annotations

import ctypes
import io
import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from export import runtime
from screen.cores import usable_cores
from screen.engine.device.cuda_driver import CudaCards, cuda_cards

_PACKAGES = (
    "oodscreen",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnx",
    "numpy",
    "pyarrow",
    "pillow",
    "tensorflow",
    "keras",
    "tf2onnx",
)


@dataclass(frozen=True)
class Library:
    """A shared library that the CUDA execution provider of the installed onnxruntime links or opens.

    Attributes:
        name: file name that the dynamic linker searches for.
        loads: whether the library loads.
        wanted: version that onnxruntime was built for or requires, such as "13.0" or "~=9.0"; "" if it is not stated.
        found: version that the library reports; "" if the library does not load, or for cuBLAS, whose version is not
            read.
    """

    name: str
    loads: bool
    wanted: str = ""
    found: str = ""


@dataclass(frozen=True)
class Machine:
    """Software, GPUs and cores of this machine.

    Attributes:
        versions: versions of Python and of the installed packages.
        built_for: execution providers in the installed build of onnxruntime.
        cards: GPUs that are visible to CUDA, or the reason why there are none.
        libraries: CUDA libraries that this build of onnxruntime needs; empty for a build without CUDA.
        cores: CPU cores available to this process.
        cores_of_machine: CPU cores of the machine.
    """

    versions: dict[str, str]
    built_for: tuple[str, ...]
    cards: CudaCards
    libraries: tuple[Library, ...]
    cores: int
    cores_of_machine: int


def describe_machine() -> Machine:
    """Describe this machine as it is now; no value is cached."""
    providers = tuple(runtime.onnxruntime.get_available_providers())
    return Machine(
        versions=_versions(),
        built_for=providers,
        cards=cuda_cards(),
        libraries=find_libraries(_cuda_version()) if "CUDAExecutionProvider" in providers else (),
        cores=usable_cores(),
        cores_of_machine=os.cpu_count() or 1,
    )


def find_libraries(cuda: str, load: Callable[[str], Any] = ctypes.CDLL) -> tuple[Library, ...]:
    """The libraries of CUDA and cuDNN, after onnxruntime has loaded the libraries of NVIDIA's Python packages.

    Args:
        cuda: version of CUDA that onnxruntime was built for, such as "13.0"; "" if it is not known.
        load: loads a shared library by name, or raises `OSError`.
    """
    with redirect_stdout(io.StringIO()):  # the call prints missing libraries
        runtime.onnxruntime.preload_dlls()
    major = cuda.split(".")[0]
    cudnn = _wanted_cudnn()
    cudnn_major = (re.search(r"\d+", cudnn) or ["9"])[0]
    if sys.platform == "win32":
        names = (
            f"cudart64_{major}.dll",
            f"cublas64_{major}.dll",
            f"cublasLt64_{major}.dll",
            f"cudnn64_{cudnn_major}.dll",
        )
    else:
        names = tuple(
            f"lib{stem}.so.{number}"
            for stem, number in (("cudart", major), ("cublas", major), ("cublasLt", major), ("cudnn", cudnn_major))
        )
    return tuple(_find(name, cuda, cudnn, load) for name in names)


def _find(name: str, cuda: str, cudnn: str, load: Callable[[str], Any]) -> Library:
    try:
        library = load(name)
    except OSError:
        return Library(name, loads=False, wanted=_wanted(name, cuda, cudnn))
    found = ""
    if "cudart" in name:
        number = ctypes.c_int()
        if library.cudaRuntimeGetVersion(ctypes.byref(number)) == 0:
            found = f"{number.value // 1000}.{number.value % 1000 // 10}"
    elif "cudnn" in name:
        library.cudnnGetVersion.restype = ctypes.c_size_t
        number_of_cudnn = library.cudnnGetVersion()
        found = f"{number_of_cudnn // 10000}.{number_of_cudnn % 10000 // 100}.{number_of_cudnn % 100}"
    return Library(name, loads=True, wanted=_wanted(name, cuda, cudnn), found=found)


def _wanted(name: str, cuda: str, cudnn: str) -> str:
    return cudnn if "cudnn" in name else cuda if "cudart" in name else ""


def _cuda_version() -> str:
    """The version of CUDA that onnxruntime was built for; "" for a build that does not state it."""
    return str(getattr(runtime.onnxruntime, "cuda_version", "") or "")


def _wanted_cudnn() -> str:
    """The version of cuDNN that the package of onnxruntime requires with its extra `cudnn`; "" if it states none."""
    try:
        lines = requires("onnxruntime-gpu") or []
    except PackageNotFoundError:
        return ""
    found = (re.match(r"nvidia-cudnn-cu\d+\s*\(?([^;)]*)", line) for line in lines)
    return next((match[1].strip() for match in found if match), "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
