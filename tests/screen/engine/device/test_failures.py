"""Failures of CUDA, with the texts of real failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.errors import EngineFailed, OutOfMemory
from screen.engine.device.failures import explain_failure
from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession
from tests.screen.engine.device.test_session import two_kinds_of_arithmetic

CALL = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 onnxruntime::CudaCall "
PLACE = " ; GPU=0 ; hostname=node ; file=cuda_execution_provider.cc ; line=336 ; expr=cudaSetDevice(info_.device_id); "


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
        (f"{CALL}CUDA failure 804: forward compatibility was attempted on non supported HW{PLACE}", "not compatible"),
        (f"{CALL}CUDA failure 46: all CUDA-capable devices are busy or unavailable{PLACE}", "exclusively"),
        (f"{CALL}CUDA failure 209: no kernel image is available for execution on the device{PLACE}", "has no kernels"),
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
