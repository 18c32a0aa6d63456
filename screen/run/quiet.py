"""Listener of a run that a Python program starts: nothing is printed, and notices go to Python's `logging`.

In: the events of a `Listener`. Out: records of the logger `oodscreen`. Warnings have the level WARNING, other notices
the level INFO, which Python does not show by default.
"""

from __future__ import annotations

import logging

from screen.output.writer import WrittenShard

_LOGGER = logging.getLogger("oodscreen")
_WARNING = "WARNING: "


class QuietListener:
    """Logs notices; the other events are ignored."""

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Log the note on the device."""
        if note:
            self.noted(note)

    def noted(self, text: str) -> None:
        """Log the notice."""
        level = logging.WARNING if text.startswith(_WARNING) else logging.INFO
        _LOGGER.log(level, "%s", text.removeprefix(_WARNING))

    def advanced(self, rows: int) -> None:
        """Do nothing."""

    def finished(self, shard: WrittenShard) -> None:
        """Do nothing."""
