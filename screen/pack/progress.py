"""Progress of a pack on standard error: a counter on a terminal, otherwise plain lines.

In: the events of a `Listener`. Out: text on standard error. The number of files is unknown until the last file is
found, so no remaining time is printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from screen.pack.packing import Listener

_LINE_SECONDS, _TERMINAL_SECONDS = 10.0, 0.2
"""Minimum seconds between two lines, and between two states of the counter on a terminal."""


@contextmanager
def make_listener() -> Iterator[Listener]:
    """Yield a listener that prints to standard error, and end its last line after the block."""
    listener = _Lines(sys.stderr.isatty())
    try:
        yield listener
    finally:
        listener.end()


class _Lines:
    """Listener that prints the number of rows, shards and bytes."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._seconds = _TERMINAL_SECONDS if is_terminal else _LINE_SECONDS
        self._rows = self._bytes = self._shards = 0
        self._last = time.monotonic()
        self._is_open = False

    def noted(self, text: str) -> None:
        """Print the notice."""
        self.end()
        print(f"oodscreen: {text}", file=sys.stderr, flush=True)

    def advanced(self, rows: int, size: int) -> None:
        """Count rows, and print the counts if enough time has passed since the last line."""
        self._rows += rows
        self._bytes += size
        if time.monotonic() - self._last > self._seconds:
            self._last = time.monotonic()
            text = (
                f"oodscreen: {self._rows} rows packed, {self._bytes / 2**20:.0f} MiB, {self._shards} shard(s) finished"
            )
            print(f"\r{text}" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=sys.stderr)
            sys.stderr.flush()
            self._is_open = self._is_terminal

    def finished(self, shard: str) -> None:
        """Count the shard."""
        self._shards += 1

    def end(self) -> None:
        """End the line of the counter."""
        if self._is_open:
            print(file=sys.stderr, flush=True)
            self._is_open = False
