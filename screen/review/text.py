"""Text from data, made safe to show.

In: any text of a shard, a path or an error. Out: a text of limited length without control characters.
"""

from __future__ import annotations


def clip(text: str, length: int = 120) -> str:
    """A text from data as it may be shown: of this length at most, and what cannot be printed is escaped."""
    short = text if len(text) <= length else f"{text[: length - 1]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)
