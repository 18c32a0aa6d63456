"""Fake libraries of the driver: objects whose functions write through ctypes pointers, as the real functions do."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from screen.engine.device.cuda_driver import CudaCard, cuda_cards

GIB = 2**30
INSTANCE = UUID("c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f")


@dataclass(frozen=True)
class FakeCard:
    name: bytes
    bus_id: bytes
    capability: tuple[int, int] = (9, 0)
    total: int = 79 * GIB


class FakeCuda:
    """A fake libcuda. `failing`: the status of each function that fails."""

    def __init__(self, *cards: FakeCard, **failing: int) -> None:
        self.cards, self.failing = cards, failing
        for name in failing:
            setattr(self, name, lambda *_, name=name: self.failing[name])

    def cuInit(self, flags: int) -> int:  # noqa: N802  # the driver's name, here and below
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12080
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = self.cards[device.value].name
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = self.cards[device.value].capability[{75: 0, 76: 1}[attribute]]
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: ctypes.c_int) -> int:  # noqa: N802
        total._obj.value = self.cards[device.value].total
        return 0

    def cuDeviceGetPCIBusId(self, bus_id: Any, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        bus_id.value = self.cards[device.value].bus_id
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: ctypes.c_int) -> int:  # noqa: N802
        uuid.raw = INSTANCE.bytes
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"no CUDA-capable device is detected"
        return 0

    def cuGetErrorName(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"CUDA_ERROR_NO_DEVICE"
        return 0


@dataclass
class FakeNvml:
    """A fake libnvidia-ml. `memory`: total and free bytes, by PCI bus id and by UUID; `failing`: as in `FakeCuda`."""

    memory: dict[bytes, tuple[int, int]]
    failing: dict[str, int] = field(default_factory=dict)
    open: int = 0

    def __post_init__(self) -> None:
        self.nvmlErrorString: Callable[[int], bytes] = lambda status: b"Driver/library version mismatch"

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self.open += 1
        return self.failing.get("nvmlInit_v2", 0)

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.open -= 1
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, length: int) -> int:  # noqa: N802
        version.value = b"570.86.15"
        return self.failing.get("nvmlSystemGetDriverVersion", 0)

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: bytes, handle: Any) -> int:  # noqa: N802
        return self._find(bus_id, handle)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        return self._find(uuid, handle)

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        assert handle.value is not None
        key = list(self.memory)[handle.value - 1]
        if key.decode() in self.failing:
            return self.failing[key.decode()]
        memory._obj.total, memory._obj.free = self.memory[key]
        return 0

    def _find(self, key: bytes, handle: Any) -> int:
        if key not in self.memory:
            return 6  # NVML_ERROR_NOT_FOUND
        handle._obj.value = list(self.memory).index(key) + 1
        return 0


def driver(cuda: object | None, nvml: object | None) -> Callable[[str], Any]:
    """Loads the fakes by the names of the real libraries; None is a library that is missing."""

    def load(name: str) -> Any:
        library = cuda if "cuda" in name else nvml
        if library is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    return load


SMALL = FakeCard(b"NVIDIA T4", b"0000:17:00.0", (7, 5), 15 * GIB)
LARGE = FakeCard(b"NVIDIA H100", b"0000:65:00.0")


def test_cards_are_described_and_their_free_memory_is_found_by_the_pci_bus_id() -> None:
    nvml = FakeNvml({b"0000:03:00.0": (GIB, 1), SMALL.bus_id: (16 * GIB, 14 * GIB), LARGE.bus_id: (80 * GIB, 70 * GIB)})
    found = cuda_cards(driver(FakeCuda(LARGE, SMALL), nvml))
    assert found.problem == ""
    assert found.cards == (
        CudaCard(0, "NVIDIA H100", (9, 0), 79 * GIB, 70 * GIB, "570.86.15", "12.8"),
        CudaCard(1, "NVIDIA T4", (7, 5), 15 * GIB, 14 * GIB, "570.86.15", "12.8"),
    )
    assert nvml.open == 0


@pytest.mark.parametrize("failing", [{}, {"0000:65:00.0": 4}])
def test_a_mig_instance_has_its_own_free_memory_and_not_that_of_the_whole_gpu(failing: dict[str, int]) -> None:
    nvml = FakeNvml({LARGE.bus_id: (80 * GIB, 70 * GIB), f"MIG-{INSTANCE}".encode(): (10 * GIB, 9 * GIB)}, failing)
    instance = FakeCard(b"NVIDIA H100 MIG 1g.10gb", LARGE.bus_id, total=10 * GIB)
    (card,) = cuda_cards(driver(FakeCuda(instance), nvml)).cards
    assert (card.total_bytes, card.free_bytes) == (10 * GIB, 9 * GIB)


@pytest.mark.parametrize(
    ("cuda", "failed", "problem"),
    [
        (None, False, "no complete NVIDIA driver was found"),
        (FakeCuda(cuInit=100), False, r"cuInit failed: .* is detected \(CUDA_ERROR_NO_DEVICE\); CUDA_VISIBLE"),
        (FakeCuda(cuInit=803), True, "cuInit failed"),
        (FakeCuda(), False, "the NVIDIA driver lists no GPU; CUDA_VISIBLE_DEVICES is ''"),
        (FakeCuda(LARGE, cuDeviceGetName=999), True, "cuDeviceGetName failed"),
        (object(), False, "has no function cuInit: the NVIDIA driver is too old"),
    ],
)
def test_a_failure_of_the_driver_is_the_reason_why_there_is_no_card(
    cuda: object | None, failed: bool, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = cuda_cards(driver(cuda, FakeNvml({LARGE.bus_id: (80 * GIB, 70 * GIB)})))
    assert found.cards == ()
    assert found.failed == failed
    assert re.search(problem, found.problem)


@pytest.mark.parametrize(
    ("nvml", "driver_version", "problem"),
    [
        (None, "", "libnvidia-ml|nvml.dll"),
        (FakeNvml({}, {"nvmlInit_v2": 18}), "", "nvmlInit_v2 failed: Driver/library version mismatch"),
        (FakeNvml({}, {"nvmlSystemGetDriverVersion": 999}), "", "nvmlSystemGetDriverVersion failed"),
        (FakeNvml({}), "570.86.15", "nvmlDeviceGetHandleByPciBusId_v2 failed"),
    ],
)
def test_without_nvml_the_cards_have_no_known_free_memory(
    nvml: FakeNvml | None, driver_version: str, problem: str
) -> None:
    found = cuda_cards(driver(FakeCuda(LARGE), nvml))
    (card,) = found.cards
    assert (card.name, card.free_bytes, card.driver) == ("NVIDIA H100", None, driver_version)
    assert re.search(problem, found.problem)


def test_the_real_libraries_of_this_machine_give_cards_or_a_reason() -> None:
    found = cuda_cards()
    assert found.cards or found.problem
