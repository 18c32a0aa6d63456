"""Listener of a run, calibration or pack in a Python program: nothing is printed; notices go to Python's `logging`.

In: the events of a `Listener`. Out: records of the logger `oodscreen`. Warnings have the level WARNING, other notices
the level INFO, which Python does not show by default.
"""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("oodscreen")


class QuietListener:
    """Logs notices and warnings; the other events are ignored."""

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Log the note on the device."""
        if note:
            self.noted(note)

    def noted(self, text: str) -> None:
        """Log the notice."""
        _LOGGER.info("%s", text)

    def warned(self, text: str) -> None:
        """Log the warning."""
        _LOGGER.warning("%s", text)

    def advanced(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def finished(self, *_: object, **__: object) -> None:
        """Do nothing."""
