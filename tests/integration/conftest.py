"""A browser for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    screenshot = pytest.importorskip("tests.screenshot", reason="playwright is not installed")
    command = screenshot.find_chromium()
    if command is None:
        pytest.skip("no Chromium; as root, `make integration` installs Debian's: apt-get install chromium")
    with screenshot.start_chromium(command) as running:
        yield running
