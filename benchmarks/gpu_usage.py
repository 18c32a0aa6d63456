"""Read the load of a GPU from its driver's library NVML, without a Python package.

In: the index of a card. Out: a `Card`, and the mean load over a block of code. Without a driver, both are None.
"""

from __future__ import annotations

import ctypes
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_SECONDS = 0.05
"""Seconds between two samples; the driver averages the load over 1/6 to 1 s."""


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes:
        name: name of the card.
        memory_mib: memory of the card, in MiB.
        driver: version of the driver.
    """

    name: str
    memory_mib: int
    driver: str


@dataclass
class Load:
    """Load of a card during a block; filled when the block ends.

    Attributes:
        busy: mean share of the time in which a kernel ran, 0 to 1; None without a card or without a sample.
        memory_mib: largest memory used by all processes on the card, in MiB; None without a card or without a sample.
    """

    busy: float | None = None
    memory_mib: int | None = None
    _busy: list[float] = field(default_factory=list)
    _memory: list[int] = field(default_factory=list)

    def _close(self) -> None:
        self.busy = round(statistics.fmean(self._busy), 3) if self._busy else None
        self.memory_mib = max(self._memory) if self._memory else None


class _Nvml:
    """A handle of one card."""

    def __init__(self, index: int) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(self._handle))

    def card(self) -> Card:
        name, driver = ctypes.create_string_buffer(128), ctypes.create_string_buffer(128)
        self._call("nvmlDeviceGetName", self._handle, name, len(name))
        self._call("nvmlSystemGetDriverVersion", driver, len(driver))
        return Card(name.value.decode(), self._memory().total // 2**20, driver.value.decode())

    def sample(self) -> tuple[float, int]:
        """Share of busy time, and used memory in MiB."""
        load = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", self._handle, ctypes.byref(load))
        return load.gpu / 100, self._memory().used // 2**20

    def _memory(self) -> _Memory:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._handle, ctypes.byref(memory))
        return memory

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise OSError(f"{function} of NVML returned {code}")


def find_card(index: int = 0) -> Card | None:
    """The card with the given index; None if there is no driver or no card with this index."""
    try:
        return _Nvml(index).card()
    except OSError:
        return None


@contextmanager
def watch_card(index: int = 0) -> Iterator[Load]:
    """Sample the load of a card during a block."""
    load, ended = Load(), threading.Event()

    def sample() -> None:
        try:
            nvml = _Nvml(index)
            while not ended.wait(_SECONDS):
                busy, memory = nvml.sample()
                load._busy.append(busy)
                load._memory.append(memory)
        except OSError:
            return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield load
    finally:
        ended.set()
        thread.join()
        load._close()
