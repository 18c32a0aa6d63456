"""The pages that people read: their headings, links and blocks of code.

In: README.md, CONTRIBUTING.md, CHANGELOG.md and docs/. Out: values for `tests/test_docs.py` and `tests/generated.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
GUIDE = (README, *sorted(DOCS.glob("*.md")))
"""What users read: the pages with generated parts and blocks that run."""
PAGES = (*GUIDE, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARKED = re.compile(r"<!-- (generated|console): (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_RECIPE = re.compile(r"<!-- recipe: (\S+) -->\n\Z")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: where it stands.
        line: number of its first line of code.
        language: the word behind the fence.
        text: the code.
        origin: `generated`, `console`, `recipe`, or "" for a block that is typed.
        name: the name of a recipe.
    """

    page: Path
    line: int
    language: str
    text: str
    origin: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def read(page: Path) -> str:
    """The text of a page."""
    return page.read_text(encoding="utf-8")


def find_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = read(page)
    marked = [(match.start(), match.end(), match[1]) for match in _MARKED.finditer(text)]
    blocks = []
    for match in _FENCE.finditer(text):
        origin = next((kind for start, end, kind in marked if start <= match.start() < end), "")
        recipe = _RECIPE.search(text, 0, match.start())
        line = text.count("\n", 0, match.start()) + 2
        blocks.append(
            Block(page, line, match[1], match[2], "recipe" if recipe else origin, recipe[1] if recipe else "")
        )
    return blocks


def without_code(text: str) -> str:
    """Prose alone: fenced blocks are left out, and what stands between backticks."""
    return re.sub(r"`[^`\n]*`", "`code`", _FENCE.sub("", text))


def find_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by GitHub's rules."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", read(page))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in anchors:
            number += 1
        anchors.add(anchor)
    return anchors


def find_links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, in order."""
    return _LINK.findall(_FENCE.sub("", read(page)))
