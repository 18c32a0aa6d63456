"""The device of the tests for GPUs: CUDA, or with `OODSCREEN_CUDA_TESTS=cpu` the CPU, to try these tests."""

from __future__ import annotations

import os

import pytest

from export.errors import OptionRefused
from screen.engine.device.choice import choose_device
from screen.engine.device.provider import Device


@pytest.fixture(scope="session")
def device() -> Device:
    """The device to test; without working CUDA, the tests are skipped with the reason."""
    wanted = os.environ.get("OODSCREEN_CUDA_TESTS", "cuda")
    try:
        return choose_device(wanted, 0)
    except OptionRefused as refused:
        pytest.skip(f"no working CUDA (OODSCREEN_CUDA_TESTS=cpu rehearses these tests): {refused.found}")


@pytest.fixture(scope="session")
def cuda(device: Device) -> Device:
    """The device, for tests that make sense on a GPU alone."""
    if device.name == "cpu":
        pytest.skip("rehearsed on the CPU; this test needs a GPU")
    return device
