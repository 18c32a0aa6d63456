"""Progress of a run on standard error and in the log: a progress bar on a terminal, else lines at growing intervals.

In: the events of a `Listener`. Out: records of the loggers of `screen.command_line.log`, and the bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from screen.command_line.log import LOG, PROGRESS
from screen.command_line.log_config import LogConfig
from screen.output.writer import WrittenShard
from screen.run.runner import Listener

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_SECONDS = 10.0
"""Seconds from the start to the first progress line; each interval is twice as long as the previous interval,
up to `_MAX_LINE_SECONDS`."""

_MAX_LINE_SECONDS = 300.0
"""Maximum seconds between two progress lines."""


@contextmanager
def make_listener(log: LogConfig | None = None) -> Iterator[Listener]:
    """Yield a listener that logs, and that shows a progress bar if `log.shows_bar`.

    Args:
        log: settings of the log; None for the default settings.
    """
    if not (log or LogConfig()).shows_bar:
        yield LogLines()
        return
    from rich import progress as bars
    from rich.console import Console

    columns = [
        bars.TextColumn("{task.completed:.0f}/{task.total:.0f} rows"),
        bars.BarColumn(bar_width=None),
        bars.TextColumn("{task.percentage:.0f}%"),
        bars.TextColumn("{task.fields[pace]}"),
    ]
    with bars.Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        yield ProgressBar(progress)


@dataclass
class Pace:
    """Number of scored rows, and speed of scoring.

    Attributes:
        total: number of rows to score.
        started: time of the start, in seconds of a monotonic clock.
        now: time when the last rows were scored, in seconds of the same clock.
        rows: number of scored rows.
        flagged: number of flagged rows among them; None in a calibration, which flags no rows.
    """

    total: int
    started: float
    now: float
    rows: int = 0
    flagged: int | None = None

    @property
    def rate(self) -> float:
        """Rows per second since the start."""
        return self.rows / max(self.now - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all rows are scored; None before the first row."""
        return max(0, self.total - self.rows) / self.rate if self.rows else None

    def describe(self) -> str:
        """Rows per second, number of flagged rows and estimated remaining time, as text."""
        parts = [f"{self.rate:.{0 if self.rate >= 10 else 1}f} rows/s"]
        if self.flagged is not None:
            parts.append(f"{self.flagged} flagged")
        if self.seconds_left is not None:
            parts.append(f"{_describe_time(self.seconds_left)} left")
        return ", ".join(parts)


def _describe_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class LogLines:
    """Listener that logs a line at the start, each notice, and progress lines at growing intervals.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pace = Pace(0, clock(), clock())
        self._shards = self._done_shards = 0
        self._interval = _LINE_SECONDS
        self._next = clock() + self._interval

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Log the number of rows and shards to score."""
        now = self._clock()
        self._pace = Pace(rows, now, now)
        self._shards, self._done_shards = shards, 0
        self._interval = _LINE_SECONDS
        self._next = now + self._interval
        text = f"{rows} rows in {shards} shard(s) to score, {skipped} shard(s) finished earlier"
        self.noted(text + (f"; {note}" if note else ""))

    def noted(self, text: str) -> None:
        """Log the notice."""
        LOG.info("%s", text)

    def warned(self, text: str) -> None:
        """Log the warning."""
        LOG.warning("%s", text)

    def advanced(self, rows: int, flagged: int | None = None) -> None:
        """Count rows, and log a progress line if the interval has passed."""
        pace = self._pace
        pace.rows, pace.now = pace.rows + rows, self._clock()
        if flagged is not None:
            pace.flagged = (pace.flagged or 0) + flagged
        if pace.now < self._next:
            return
        self._interval = min(2 * self._interval, _MAX_LINE_SECONDS)
        self._next = pace.now + self._interval
        share = f" ({pace.rows / pace.total:.0%})" if pace.total else ""
        shards = f"{self._done_shards} of {self._shards} shards"
        left = None if pace.seconds_left is None else round(pace.seconds_left)
        values = {
            "rows": pace.rows,
            "of_rows": pace.total,
            "shards": self._done_shards,
            "of_shards": self._shards,
            "rows_per_second": round(pace.rate, 1),
            "flagged": pace.flagged,
            "seconds_left": left,
        }
        text = f"{pace.rows} of {pace.total} rows{share}, {shards}, {pace.describe()}"
        PROGRESS.info("%s", text, extra={"values": values})

    def finished(self, shard: WrittenShard) -> None:
        """Count the shard, and log it with `--verbose`."""
        self._done_shards += 1
        bad = shard.rows - shard.statuses.get("ok", 0)
        LOG.debug("finished %r: %d rows, %d flagged, %d not scored", shard.shard.name, shard.rows, shard.flagged, bad)


class ProgressBar(LogLines):
    """Listener that also shows a progress bar of rich; log lines appear above it."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("scoring", total=None, pace="", visible=False)

    def started(self, shards: int, rows: int, skipped: int, note: str) -> None:
        """Log the number of rows and shards to score, and show the bar if there are rows."""
        super().started(shards, rows, skipped, note)
        self._progress.update(self._task, total=rows, completed=0, pace="", visible=rows > 0)

    def advanced(self, rows: int, flagged: int | None = None) -> None:
        """Advance the bar."""
        super().advanced(rows, flagged)
        self._progress.update(self._task, advance=rows, pace=self._pace.describe())
