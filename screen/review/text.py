"""Make text from data safe to display.

In: text from a shard, a path or an error. Out: text without control characters, cut to a maximum length or with escaped
console markup.
"""

from __future__ import annotations

from rich import markup

from export.errors import printable


def clip(text: str, length: int = 120) -> str:
    """The text, cut to `length` characters; unprintable characters are then escaped, which lengthens the text."""
    return printable((text if len(text) <= length else f"{text[: length - 1]}…").replace("\n", "\\n"))


def valid_text(text: str) -> str:
    """The text with a replacement character for each unpaired surrogate; a surrogate pair becomes its character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def escape(text: str) -> str:
    """The text with escaped markup and escaped unprintable characters, for a console that interprets markup."""
    return markup.escape(printable(text))
