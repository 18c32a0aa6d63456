"""CUDA without a GPU: the driver's answer and onnxruntime's sessions are fakes, which raise texts of real failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export import runtime
from export.errors import EngineFailed, OptionRefused, OutOfMemory
from screen.engine import session as sessions
from screen.engine.cuda_driver import CudaCard, CudaCards
from screen.engine.provider import explain_failure
from screen.engine.session import Device, GraphSession, choose_device
from tests.screen.engine.test_session import two_kinds_of_arithmetic

GIB = 2**30
CALL = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 onnxruntime::CudaCall "
PLACE = " ; GPU=0 ; hostname=node ; file=cuda_execution_provider.cc ; line=336 ; expr=cudaSetDevice(info_.device_id); "


def card(index: int = 0, capability: tuple[int, int] = (9, 0), free: int | None = 60 * GIB) -> CudaCard:
    return CudaCard(index, "Fake H100", capability, 80 * GIB, free, "580.65.06", "13.0")


class FakeSession:
    """A fake onnxruntime session on CUDA. `fails_to_open` and `fails_to_run`: texts of the raised exceptions."""

    fails_to_open = fails_to_run = ""
    options: Any = None
    providers: Any = None

    def __init__(self, data: bytes, options: Any, *, providers: Any, enable_fallback: bool) -> None:
        assert not enable_fallback, "onnxruntime would print to standard output, and continue on the CPU"
        FakeSession.options, FakeSession.providers = options, providers
        if FakeSession.fails_to_open:
            raise RuntimeError(FakeSession.fails_to_open)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run(self, outputs: Any, inputs: Any) -> None:
        if FakeSession.fails_to_run:
            raise RuntimeError(FakeSession.fails_to_run)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """A machine with two fake GPUs."""
    monkeypatch.setattr(sessions, "cuda_cards", lambda: CudaCards((card(0), card(1))))
    monkeypatch.setattr(runtime.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(runtime.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", FakeSession)
    for name in ("fails_to_open", "fails_to_run"):
        monkeypatch.setattr(FakeSession, name, "")
    return FakeSession


def test_the_options_of_cuda_keep_the_numbers_of_float32(fake: type[FakeSession]) -> None:
    device = choose_device("cuda:1", 2)
    assert (device.name, device.index, device.label, device.memory) == ("cuda", 1, "cuda:1", 30 * GIB)
    (name, options), last = fake.providers
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": str(30 * GIB),
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert fake.options.use_deterministic_compute


def test_tf32_and_the_memory_are_as_requested(fake: type[FakeSession]) -> None:
    device = choose_device("auto", 1, precision="tf32", memory=100)
    options = fake.providers[0][1]
    assert (device.name, device.memory) == ("cuda", 100 * 2**20)
    assert (options["use_tf32"], options["gpu_mem_limit"]) == ("1", str(100 * 2**20))


def test_a_gpu_that_does_not_exist_is_refused(fake: type[FakeSession]) -> None:
    with pytest.raises(
        OptionRefused, match=r"--device is cuda:2, but CUDA sees cuda:0 \(Fake H100\), cuda:1"
    ) as raised:
        choose_device("cuda:2", 1)
    assert raised.value.next_step == "give one of these devices"


def test_tf32_is_refused_where_no_gpu_has_it(fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cuda_cards", lambda: CudaCards((card(capability=(7, 5)),)))
    with pytest.raises(OptionRefused, match=r"has compute capability 7\.5"):
        choose_device("auto", 1, precision="tf32")
    monkeypatch.setattr(sessions, "cuda_cards", lambda: CudaCards(problem="no driver"))
    with pytest.raises(OptionRefused, match=r"no GPU can be used \(no driver\)"):
        choose_device("auto", 1, precision="tf32")


def test_without_a_gpu_no_session_is_opened_and_auto_says_nothing(
    fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "cuda_cards", lambda: CudaCards(problem="no driver"))
    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", None)
    assert choose_device("auto", 1) == Device("cpu", 1)
    with pytest.raises(OptionRefused, match="--device cuda was requested, but no driver"):
        choose_device("cuda", 1)


def test_a_driver_that_fails_is_named(fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    cards = CudaCards(problem="cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", failed=True)
    monkeypatch.setattr(sessions, "cuda_cards", lambda: cards)
    assert choose_device("auto", 1).note == f"running on the CPU: {cards.problem}"


def test_a_gpu_that_does_not_work_is_named(fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fake,
        "fails_to_open",
        f"{CALL}CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version{PLACE}",
    )
    assert choose_device("auto", 1).note.startswith("running on the CPU: The NVIDIA driver is too old")
    with pytest.raises(OptionRefused, match=r"too old .*: CUDA failure 35: CUDA driver version") as raised:
        choose_device("cuda", 1)
    assert "update the NVIDIA driver" in raised.value.next_step
    monkeypatch.setattr(fake, "fails_to_open", "")
    monkeypatch.setattr(fake, "fails_to_run", "Failed to initialize CUDNN Frontend")
    with pytest.raises(OptionRefused, match="A library of CUDA or cuDNN is missing"):
        choose_device("cuda", 1)


@pytest.mark.parametrize(
    "text",
    [
        f"{CALL}CUDA failure 2: out of memory{PLACE}",
        "Non-zero status code returned while running ReduceSum node. onnxruntime::BFCArena::AllocateRawInternal Failed "
        "to allocate memory for requested buffer of size 939524096",
        "onnxruntime::BFCArena::AllocateRawInternal Available memory of 34699008 is smaller than requested bytes of "
        "945041920",
        f"CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED{PLACE}",
        f"CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED{PLACE}",
        f"CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED{PLACE}",
    ],
)
def test_out_of_memory_on_a_gpu_is_out_of_memory(text: str) -> None:
    error = explain_failure(RuntimeError(text), "cuda:1")
    assert isinstance(error, OutOfMemory)
    assert error.found.startswith("Memory ran out on the device cuda:1: ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{CALL}CUDA failure 999: unknown error{PLACE}", "The GPU failed"),
        (f"{CALL}CUDA failure 700: an illegal memory access was encountered{PLACE}", "The GPU failed"),
        (f"{CALL}CUDA failure 719: unspecified launch failure{PLACE}", "The GPU failed"),
        (f"CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED{PLACE}", "The GPU failed"),
        (f"{CALL}CUDA failure 100: no CUDA-capable device is detected{PLACE}", "CUDA does not find the device"),
        (f"{CALL}CUDA failure 804: forward compatibility was attempted on non supported HW{PLACE}", "do not belong"),
        (f"{CALL}CUDA failure 46: all CUDA-capable devices are busy or unavailable{PLACE}", "exclusively"),
        (f"{CALL}CUDA failure 209: no kernel image is available for execution on the device{PLACE}", "has no code"),
        (f"CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED{PLACE}", "CUDA or cuDNN is missing"),
        ("libcublasLt.so.13: cannot open shared object file: No such file or directory", "CUDA or cuDNN is missing"),
    ],
)
def test_each_failure_of_cuda_has_its_next_step_and_is_not_tried_again(text: str, found: str) -> None:
    error = explain_failure(RuntimeError(text), "cuda")
    assert error is not None
    assert not isinstance(error, OutOfMemory)  # only these are tried again, with fewer rows
    assert error.exit_code == 1
    assert found in error.found
    assert "hostname" not in error.found
    assert "--device cpu" in error.next_step


def test_a_failure_during_a_run_is_mapped() -> None:
    """A fake failure in a session of the CPU."""

    class FailingBinding:
        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            raise RuntimeError(f"{CALL}CUDA failure 700: an illegal memory access was encountered{PLACE}")

    session = GraphSession(two_kinds_of_arithmetic(), Device("cpu", 1))
    value = session.put(np.zeros((1, 3), np.float32))
    session._session = type("Fake", (), {"io_binding": lambda self: FailingBinding()})()
    with pytest.raises(EngineFailed, match="The GPU failed, and this process can no longer use it"):
        session.run({"x": value})
    assert explain_failure(RuntimeError("Got invalid dimensions for input"), "cpu") is None
