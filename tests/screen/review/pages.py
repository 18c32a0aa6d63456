"""Parse a page into elements with their attributes and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br", "wbr"}

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '"><img src=x onerror="window.hacked = 3">',
    "' onmouseover='window.hacked = 4",
    "<svg onload=window.hacked=5>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "</title><style>body{display:none}</style>",
    "\u202eright to left",
    "line\nbreak\ttab\x00nul",
    "😀 ünïcödé",
    "x" * 100_000,
]
"""Row keys that try to inject markup, scripts or control characters."""

CLASS_NAMES = (
    "zero",
    "golden_retriever",
    "Rinderkennzeichnungsfleischetikettierung",
    "a class with a name of forty characters!",
    "great_white_shark_of_the_southern_waters",
    "חתול שחור",
    "كلب صغير",
    "黒い猫と白い犬",
    "seven",
    "nine",
)
"""Ten class names: short words, three of 40 characters, right-to-left text and text without spaces."""


@dataclass
class Element:
    """One element; `text` includes the text of its children."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    children: list[Element] = field(default_factory=list)


class Page(HTMLParser):
    """A parsed page; entities are resolved as in a browser."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {[one.tag for one in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if self._open:
            self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements of a tag with the given attribute values; `class_` matches any one of the classes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            one
            for one in self.elements
            if one.tag == tag
            and all(value in (one.attributes.get(name) or "").split() for name, value in wanted.items())
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """The only element of a tag with the given attribute values."""
        (found,) = self.all(tag, **attributes)
        return found

    def has(self, text: str) -> bool:
        """Whether the page contains a text, ignoring whitespace."""
        return " ".join(text.split()) in " ".join(self.elements[0].text.split())
