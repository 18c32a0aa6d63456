"""Take the pictures of a report: `make demo`, then `python -m tests.screenshot demo-output/report.html`.

In: a page. Out: pictures in `benchmarks/results/`, taken in Debian's Chromium, in a few colours to keep the files
small: `report.png` for README, and for docs/review.md `report-dark.png`, `report-phone.png` and `report-print.png`.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.pages import REPOSITORY

FOLDER = REPOSITORY / "benchmarks" / "results"


@dataclass(frozen=True)
class Shot:
    """A picture to take.

    Attributes:
        name: name of the file.
        width: width of the window, in CSS pixels; for print, of the printed area of A4.
        height: height of the picture, in CSS pixels.
        scheme: `light` or `dark`.
        medium: `screen` or `print`.
        section: the id of the section at the upper edge; "" for the start of the page.
    """

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"] = "light"
    medium: Literal["screen", "print"] = "screen"
    section: str = ""


SHOTS = (
    Shot("report.png", 1280, 1400),
    Shot("report-dark.png", 1280, 900, scheme="dark", section="top-rows"),
    Shot("report-phone.png", 360, 1000, section="gallery"),
    Shot("report-print.png", 688, 990, medium="print"),
)


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


def take(browser: Any, address: str, shot: Shot, folder: Path) -> Path:
    """Write one picture of a page, and return its path."""
    size = {"width": shot.width, "height": shot.height}
    page = browser.new_page(viewport=size, color_scheme=shot.scheme)
    page.goto(address)
    page.emulate_media(media=shot.medium)
    if shot.section:
        page.evaluate(f"document.getElementById('{shot.section}').scrollIntoView()")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    target = folder / shot.name
    picture.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    return target


def main() -> None:
    """Take the pictures of the page that is named."""
    command = find_chromium()
    if command is None or len(sys.argv) != 2:
        raise SystemExit("python -m tests.screenshot report.html, with chromium installed")
    with start_chromium(command) as browser:
        for shot in SHOTS:
            target = take(browser, Path(sys.argv[1]).resolve().as_uri(), shot, FOLDER)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
