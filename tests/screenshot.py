"""Take the picture of a report: `make demo`, then `python -m tests.screenshot demo-output/report.html`.

In: a page. Out: `benchmarks/results/report.png`, its upper part in Debian's Chromium, in a few colours to keep the
file small. README and docs/review.md show it.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.pages import REPOSITORY

TARGET = REPOSITORY / "benchmarks" / "results" / "report.png"
SIZE = {"width": 1280, "height": 1290}


def find_chromium() -> str | None:
    """The browser's command, where there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def start_chromium(command: str) -> Iterator[Any]:
    """A browser that runs within the block."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox does not start as root
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=command, args=arguments)
        yield browser
        browser.close()


def take(browser: Any, address: str, target: Path) -> None:
    """Write a picture of the upper part of a page."""
    page = browser.new_page(viewport=SIZE, color_scheme="light")
    page.goto(address)
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    page.close()


def main() -> None:
    """Take the picture of the page that is named."""
    command = find_chromium()
    if command is None or len(sys.argv) != 2:
        raise SystemExit("python -m tests.screenshot report.html, with chromium installed")
    with start_chromium(command) as browser:
        take(browser, Path(sys.argv[1]).resolve().as_uri(), TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
