"""A page in a real browser, with its console messages and requests."""

from __future__ import annotations

from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}

BROKEN_WORDS = """
() => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!parent.checkVisibility() || parent.closest("script, option, svg, .visually-hidden, .skip")) continue;
    for (const word of node.data.matchAll(/[^\\s\\u002d\\u2013\\/\\u3000-\\u9fff]+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((one) => Math.round(one.top)));
      if (lines.size > 1) broken.push([word[0], parent.closest("[class]").className]);
    }
  }
  return broken;
}
"""
"""Words that are divided between lines, with the class of their element."""


class Opened:
    """A page in the browser, with its console messages and requests."""

    def __init__(self, browser: Any, address: str, viewport: dict[str, int] = DESK, **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url[:100]))
        self.page.goto(address)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def cards(self) -> list[dict[str, Any]]:
        """Class, reasons and scores of the visible cards, in order."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "[...document.querySelectorAll('.card')].filter(one => one.checkVisibility()).map(one => ({"
            "id: one.querySelector('h3 bdi').textContent, prediction: one.dataset.class,"
            "reasons: JSON.parse(one.dataset.reasons), scores: JSON.parse(one.dataset.scores)}))"
        )
        return found

    def shown(self, text: str) -> None:
        """Wait until the page shows this count of cards."""
        playwright.expect(self.page.locator("#shown")).to_have_text(text)

    def column(self, table: str, number: int) -> list[str]:
        found: list[str] = self.page.locator(f"{table} tbody tr > :nth-child({number})").all_text_contents()
        return found
