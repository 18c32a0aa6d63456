"""Make text from data safe to display.

In: text from a shard, a path or an error. Out: text cut to a maximum length, without control characters.
"""

from __future__ import annotations


def clip(text: str, length: int = 120) -> str:
    """The text, cut to `length` characters; unprintable characters are then escaped, which lengthens the text."""
    short = text if len(text) <= length else f"{text[: length - 1]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)
