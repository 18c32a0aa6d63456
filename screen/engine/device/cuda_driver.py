"""Use the libraries of the NVIDIA driver to find the GPUs that are visible to CUDA, without a CUDA context.

In: libcuda and libnvidia-ml, which come with the driver. Out: the `CudaCard`s in CUDA's order, or the reason why there
are none.

Names, compute capabilities and total memory come from the CUDA driver API; free memory and the driver's version come
from NVML, because the driver API gives free memory only inside a context, which itself takes memory of the GPU. NVML
ignores `CUDA_VISIBLE_DEVICES` and has another order, so a card is looked up in NVML by its PCI bus id. A MIG instance
has the PCI bus id of the whole GPU, so it is looked up by its UUID. Sources: the sections "Initialization", "Version
Management" and "Device Management" of the CUDA driver API, and the NVML API reference.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

_CUDA, _NVML = ("nvcuda.dll", "nvml.dll") if sys.platform == "win32" else ("libcuda.so.1", "libnvidia-ml.so.1")

_NO_DEVICE = 100
"""Status `CUDA_ERROR_NO_DEVICE` of the driver API."""

_MAJOR, _MINOR = 75, 76
"""Attributes `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `..._MINOR` of the driver API."""

_TEXT = 256
"""Bytes of the buffer for a text; the longest text of the two libraries, a name, has 96 bytes."""

_SAME_CARD = 1.25
"""Maximum ratio of the total memory in NVML to that in CUDA at which both describe the same device. NVML includes the
memory that the driver reserves (a few percent); a whole GPU has at least twice the memory of a MIG instance, apart from
an instance with all memory of the GPU."""


@dataclass(frozen=True)
class CudaCard:
    """A GPU, or a MIG instance of a GPU, that is visible to CUDA.

    Attributes:
        index: number of the card in CUDA, which depends on `CUDA_VISIBLE_DEVICES`; N of `cuda:N`.
        name: name of the product.
        compute_capability: major and minor number, such as (9, 0).
        total_bytes: memory of the card, in bytes.
        free_bytes: free memory of the card at the time of the call, in bytes; None if NVML does not give it.
        driver: version of the driver, such as "580.65.06"; "" if NVML does not give it.
        cuda: newest version of CUDA that the driver supports, such as "13.0".
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    free_bytes: int | None
    driver: str
    cuda: str


@dataclass(frozen=True)
class CudaCards:
    """The cards that are visible to CUDA.

    Attributes:
        cards: all cards, in CUDA's order.
        problem: why there are no cards, why cards are missing, or why the free memory of a card is not known; "" if
            there is no problem.
        failed: whether the driver is installed, and a call failed for another reason than a missing GPU.
    """

    cards: tuple[CudaCard, ...] = ()
    problem: str = ""
    failed: bool = False


def cuda_cards(load: Callable[[str], Any] = ctypes.CDLL) -> CudaCards:
    """The cards that are visible to CUDA; the error of a failed call is the result's `problem`, and is not raised.

    The process must not be forked afterwards if the child uses CUDA: a child cannot initialise the driver again.

    Args:
        load: loads a shared library by name, or raises `OSError`.
    """
    try:
        cuda = _Library(load, _CUDA, _cuda_error)
        cuda.call("cuInit", 0)
        version, count = ctypes.c_int(), ctypes.c_int()
        cuda.call("cuDriverGetVersion", ctypes.byref(version))
        cuda.call("cuDeviceGetCount", ctypes.byref(count))
    except _CallFailed as failure:
        no_device = failure.status == _NO_DEVICE
        return CudaCards(
            problem=f"{failure}{_hidden() if no_device else ''}", failed=failure.status > 0 and not no_device
        )
    if not count.value:
        return CudaCards(problem=f"the NVIDIA driver lists no GPU{_hidden()}")
    try:
        nvml: _Nvml | None = _Nvml(load)
        problem = ""
    except _CallFailed as failure:
        nvml, problem = None, str(failure)
    cards = []
    try:
        for index in range(count.value):
            card, why = _card(index, version.value, cuda, nvml)
            cards.append(card)
            problem = problem or why
    except _CallFailed as failure:
        return CudaCards(tuple(cards), str(failure), failed=True)
    finally:
        if nvml is not None:
            nvml.close()
    return CudaCards(tuple(cards), problem)


def _card(index: int, cuda_version: int, cuda: _Library, nvml: _Nvml | None) -> tuple[CudaCard, str]:
    """The card, and why its free memory is not known ("" if the free memory is known)."""
    device, major, minor, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, bus_id = (ctypes.create_string_buffer(_TEXT) for _ in range(2))
    uuid = ctypes.create_string_buffer(16)
    cuda.call("cuDeviceGet", ctypes.byref(device), index)
    cuda.call("cuDeviceGetName", name, _TEXT, device)
    cuda.call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    cuda.call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    cuda.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    cuda.call("cuDeviceGetPCIBusId", bus_id, _TEXT, device)
    free: int | None = None
    why = ""
    if nvml is not None:
        try:
            free = nvml.free_bytes(bus_id.value, total.value)
            if free is None:
                cuda.call("cuDeviceGetUuid_v2", uuid, device)
                free = nvml.free_bytes_of_instance(UUID(bytes=uuid.raw))
        except _CallFailed as failure:
            why = str(failure)
    return (
        CudaCard(
            index=index,
            name=name.value.decode(errors="replace"),
            compute_capability=(major.value, minor.value),
            total_bytes=total.value,
            free_bytes=free,
            driver=nvml.driver if nvml is not None else "",
            cuda=f"{cuda_version // 1000}.{cuda_version % 1000 // 10}",
        ),
        why,
    )


class _CallFailed(Exception):
    """A library or a function is missing, or a call returned an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Library:
    """A shared library whose functions return 0 if they succeed.

    Args:
        load: loads a shared library by name, or raises `OSError`.
        name: name of the shared library.
        explain: returns the text of a status that is not 0, from the library and the status.
    """

    def __init__(self, load: Callable[[str], Any], name: str, explain: Callable[[Any, int], str]) -> None:
        self._name, self._explain = name, explain
        try:
            self._library = load(name)
        except OSError as error:
            raise _CallFailed(f"no complete NVIDIA driver was found: {name} does not load ({error})") from error

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            _CallFailed: the library does not have the function, or the function returned an error.
        """
        try:
            status = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise _CallFailed(f"{self._name} has no function {function}: the NVIDIA driver is too old") from error
        if status:
            raise _CallFailed(f"{function} failed: {self._explain(self._library, status)}", status)


class _Nvml:
    """NVML, initialised until `close`."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._library = _Library(load, _NVML, _nvml_error)
        self._library.call("nvmlInit_v2")
        version = ctypes.create_string_buffer(_TEXT)
        try:
            self._library.call("nvmlSystemGetDriverVersion", version, _TEXT)
        except _CallFailed:
            self.close()
            raise
        self.driver = version.value.decode(errors="replace")

    def free_bytes(self, bus_id: bytes, total_bytes: int) -> int | None:
        """Free bytes of the GPU at a PCI bus id; None if the card with `total_bytes` is a MIG instance of this GPU."""
        handle = ctypes.c_void_p()
        self._library.call("nvmlDeviceGetHandleByPciBusId_v2", bus_id, ctypes.byref(handle))
        try:
            memory = self._memory(handle)
        except _CallFailed as failure:
            if failure.status in _NOT_ON_THE_WHOLE_GPU:
                return None
            raise
        return memory.free if memory.total <= _SAME_CARD * total_bytes else None

    def free_bytes_of_instance(self, uuid: UUID) -> int:
        """Free memory of a MIG instance, in bytes."""
        handle = ctypes.c_void_p()
        self._library.call("nvmlDeviceGetHandleByUUID", f"MIG-{uuid}".encode(), ctypes.byref(handle))
        return self._memory(handle).free

    def _memory(self, handle: ctypes.c_void_p) -> _Memory:
        memory = _Memory()
        self._library.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return memory

    def close(self) -> None:
        """Release NVML; an error of the release is ignored, because all values have been read."""
        try:
            self._library.call("nvmlShutdown")
        except _CallFailed:
            return


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))
    total: int
    free: int
    used: int


_NOT_ON_THE_WHOLE_GPU = (3, 4)
"""Statuses `NVML_ERROR_NOT_SUPPORTED` and `NVML_ERROR_NO_PERMISSION`, which NVML returns for the whole GPU in a
container with one MIG instance."""


def _cuda_error(library: Any, status: int) -> str:
    texts = []
    for function in ("cuGetErrorString", "cuGetErrorName"):
        text = ctypes.c_char_p()
        get = getattr(library, function, None)
        if get is not None and get(status, ctypes.byref(text)) == 0 and text.value:
            texts.append(text.value.decode(errors="replace"))
    return f"{texts[0]} ({texts[1]})" if len(texts) == 2 else f"CUDA error {status}"


def _nvml_error(library: Any, status: int) -> str:
    get = getattr(library, "nvmlErrorString", None)
    if get is None:
        return f"NVML error {status}"
    get.restype = ctypes.c_char_p
    return (get(status) or b"").decode(errors="replace") or f"NVML error {status}"


def _hidden() -> str:
    """Text with the value of `CUDA_VISIBLE_DEVICES`, to append to a problem; "" if the variable is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
