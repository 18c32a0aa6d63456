"""CUDA without a GPU: the driver and the sessions of onnxruntime are fakes, which raise the texts of real failures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from export import runtime
from export.errors import OptionRefused
from screen.engine.device import choice
from screen.engine.device.choice import choose_device
from screen.engine.device.cuda_driver import CudaCard, CudaCards
from screen.engine.device.provider import Device
from tests.screen.engine.device.test_failures import CALL, PLACE

GIB = 2**30


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
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards((card(0), card(1))))
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
    assert fake.options.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"


def test_half_of_all_memory_is_the_default_where_free_memory_is_not_known(
    fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards((card(free=None),)))
    assert choose_device("cuda", 1).memory == 40 * GIB


def test_tf32_and_the_memory_are_as_requested(fake: type[FakeSession]) -> None:
    device = choose_device("auto", 1, precision="tf32", memory=100)
    options = fake.providers[0][1]
    assert (device.name, device.memory) == ("cuda", 100 * 2**20)
    assert (options["use_tf32"], options["gpu_mem_limit"]) == ("1", str(100 * 2**20))


def test_a_gpu_that_does_not_exist_is_refused(fake: type[FakeSession]) -> None:
    with pytest.raises(
        OptionRefused,
        match=r"--device is cuda:2, but only these GPUs are visible to CUDA: cuda:0 \(Fake H100\), cuda:1",
    ) as raised:
        choose_device("cuda:2", 1)
    assert raised.value.next_step == "give one of these devices"


def test_tf32_is_refused_where_no_gpu_has_it(fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards((card(capability=(7, 5)),)))
    with pytest.raises(OptionRefused, match=r"has compute capability 7\.5"):
        choose_device("auto", 1, precision="tf32")
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards(problem="no driver"))
    with pytest.raises(OptionRefused, match=r"no GPU can be used \(no driver\)"):
        choose_device("auto", 1, precision="tf32")
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards((card(),), problem="NVML is missing"))
    monkeypatch.setattr(runtime.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(OptionRefused, match=r"no GPU can be used \(The installed onnxruntime was built without CUDA"):
        choose_device("auto", 1, precision="tf32")


def test_without_a_gpu_no_session_is_opened_and_auto_says_nothing(
    fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cuda_cards", lambda: CudaCards(problem="no driver"))
    monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", None)
    assert choose_device("auto", 1) == Device("cpu", 1)
    with pytest.raises(OptionRefused, match="--device cuda was requested, but no driver"):
        choose_device("cuda", 1)


def test_a_driver_that_fails_is_named(fake: type[FakeSession], monkeypatch: pytest.MonkeyPatch) -> None:
    cards = CudaCards(problem="cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", failed=True)
    monkeypatch.setattr(choice, "cuda_cards", lambda: cards)
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


def test_the_device_has_the_requested_number_of_threads() -> None:
    assert choose_device("cpu", 3).threads == 3
    assert choose_device("cpu", 0).threads >= 1


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionRefused, match="--device is 'abacus'"):
        choose_device("abacus", 0)


def test_auto_falls_back_without_noise_from_onnxruntime() -> None:
    code = "from screen.engine.device.choice import choose_device; choose_device('auto', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
