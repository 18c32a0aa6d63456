"""A browser for the tests of pages, and the right to be the only test that runs Ray."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import ray_processes


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    screenshot = pytest.importorskip("tests.screenshot", reason="playwright is not installed")
    command = screenshot.find_chromium()
    if command is None:
        pytest.skip("no Chromium; as root, `make integration` installs Debian's: apt-get install chromium")
    with screenshot.start_chromium(command) as running:
        yield running


@pytest.fixture
def alone_with_ray() -> Iterator[None]:
    """Hold a lock of this machine: tests count the Ray processes of the whole machine, so only one of them runs.

    Afterwards no Ray process may be running.
    """
    with open(Path(tempfile.gettempdir()) / f"oodscreen-tests-ray-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        deadline = time.monotonic() + 60
        while (left := ray_processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
