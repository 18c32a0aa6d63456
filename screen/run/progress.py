"""Progress of a run on standard error: a progress bar on a terminal, otherwise plain lines.

In: the events of a `Listener`. Out: text on standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from screen.output.writer import WrittenShard
from screen.run.runner import Listener

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_SECONDS = 10.0
"""Minimum seconds between two lines on standard error, of which the second is a progress line."""


@contextmanager
def make_listener() -> Iterator[Listener]:
    """Yield a listener that shows a progress bar if standard error is a terminal, otherwise plain lines."""
    if not sys.stderr.isatty():
        yield PlainLines()
        return
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    with bars.Progress(
        bars.TextColumn("scoring"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("rows"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
    ) as progress:
        yield ProgressBar(progress)


class PlainLines:
    """Listener that prints a line at the start, each notice, and a progress line at most every `_LINE_SECONDS`."""

    def __init__(self) -> None:
        self._shards = self._rows = self._done_shards = self._done_rows = 0
        self._last = 0.0

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Print the number of rows and shards to score."""
        self._shards, self._rows = shards, rows
        self._done_shards = self._done_rows = 0
        self._print(
            f"{rows} rows in {shards} shard(s) to score, {skipped} shard(s) finished earlier"
            + (f"; {note}" if note else "")
        )

    def noted(self, text: str) -> None:
        """Print the notice."""
        self._print(text)

    def advanced(self, rows: int) -> None:
        """Count rows, and print a progress line if the last line is older than `_LINE_SECONDS`."""
        self._done_rows += rows
        if time.monotonic() - self._last > _LINE_SECONDS:
            self._print(f"{self._done_rows} of {self._rows} rows, {self._done_shards} of {self._shards} shards")

    def finished(self, shard: WrittenShard) -> None:
        """Count the shard."""
        self._done_shards += 1

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        print(f"oodscreen: {text}", file=sys.stderr, flush=True)


class ProgressBar:
    """Listener that shows a progress bar of rich, which counts rows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("scoring", total=None)

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Set the length of the bar; print the device note and the number of skipped shards above the bar."""
        self._progress.update(self._task, total=rows, completed=0)
        if note:
            self._progress.console.print(note, highlight=False)
        if skipped:
            self._progress.console.print(f"{skipped} shard(s) finished earlier", highlight=False)

    def noted(self, text: str) -> None:
        """Print the notice above the bar."""
        self._progress.console.print(text, highlight=False)

    def advanced(self, rows: int) -> None:
        """Advance the bar."""
        self._progress.advance(self._task, rows)

    def finished(self, shard: WrittenShard) -> None:
        """Do nothing: the bar counts rows, not shards."""
